"""The gallery's application in Django, all of it in one file.

A process has one Django: what django_asgi_app.py serves are these views, too.
"""

from __future__ import annotations

from pathlib import Path

from django.conf import settings
from django.core.wsgi import get_wsgi_application
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import redirect
from django.template import engines
from django.urls import path
from django.views.static import serve

STATIC = Path(__file__).parent / "static"

PAGE = """\
<!doctype html>
<link rel="stylesheet" href="{% url 'static' 'style.css' %}">
<h1>Django</h1>
<a href="{% url 'page' 7 %}">A page</a>
"""


def index(request: HttpRequest) -> HttpResponse:
    return HttpResponse(engines["django"].from_string(PAGE).render({}, request))


def page(request: HttpRequest, number: int) -> HttpResponse:
    return HttpResponse(f"Page {number}")


def go(request: HttpRequest) -> HttpResponse:
    return redirect("page", number=7)


def visitor(request: HttpRequest) -> HttpResponse:
    if request.method == "POST":
        request.session["name"] = request.POST["name"]
    return JsonResponse({"name": request.session.get("name", "")})


def echo(request: HttpRequest) -> HttpResponse:
    return JsonResponse({"text": request.POST["text"]})


def error(request: HttpRequest) -> HttpResponse:
    raise ValueError("a mistake in Django's view")


urlpatterns = [
    path("", index),
    path("page/<int:number>", page, name="page"),
    path("go", go),
    path("visitor", visitor),
    path("echo", echo),
    path("error", error),
    # {% static %} would not do: Django keeps STATIC_URL with the first prefix it sees.
    path("static/<path:path>", serve, {"document_root": STATIC}, "static"),
]

settings.configure(
    ROOT_URLCONF=__name__,
    ALLOWED_HOSTS=["*"],
    SECRET_KEY="nothing here is secret",
    MIDDLEWARE=[
        "django.contrib.sessions.middleware.SessionMiddleware",
        # By way of ASGI, it is what leads from the bare prefix to the first page.
        "django.middleware.common.CommonMiddleware",
    ],
    SESSION_ENGINE="django.contrib.sessions.backends.signed_cookies",
    TEMPLATES=[{"BACKEND": "django.template.backends.django.DjangoTemplates"}],
)

application = get_wsgi_application()
