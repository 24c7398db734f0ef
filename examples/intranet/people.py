"""People, in Django: who is where, in one file."""

from __future__ import annotations

from django.conf import settings
from django.core.wsgi import get_wsgi_application
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.template import engines
from django.urls import path

PEOPLE = {"ada": "Ada, room 12", "grace": "Grace, room 7"}

PAGE = """\
{% load static %}<!doctype html>
<html lang="en">
<title>People</title>
<link rel="stylesheet" href="{% static 'people.css' %}">
<h1>People</h1>
<ul>{% for name, text in people.items %}
<li><a href="{% url 'person' name %}">{{ text }}</a></li>{% endfor %}
</ul>
"""


def index(request: HttpRequest) -> HttpResponse:
    """List everybody, each a link made by Django for wherever this is mounted."""
    template = engines["django"].from_string(PAGE)
    return HttpResponse(template.render({"people": PEOPLE}, request))


def person(request: HttpRequest, name: str) -> HttpResponse:
    """Show one person."""
    if name not in PEOPLE:
        raise Http404(name)
    return HttpResponse(f"<h1>{PEOPLE[name]}</h1>")


def boss(request: HttpRequest) -> HttpResponse:
    """Send the visitor to whoever is in charge this year."""
    return redirect("person", name="grace")


urlpatterns = [
    path("", index, name="index"),
    path("boss", boss, name="boss"),
    path("<slug:name>", person, name="person"),
]

settings.configure(
    ROOT_URLCONF=__name__,
    ALLOWED_HOSTS=["*"],
    SECRET_KEY="nothing here is signed",
    INSTALLED_APPS=["django.contrib.staticfiles"],
    MIDDLEWARE=["django.middleware.common.CommonMiddleware"],
    # Relative, so that Django puts the mount's prefix in front.
    STATIC_URL="static/",
    TEMPLATES=[{"BACKEND": "django.template.backends.django.DjangoTemplates"}],
)

application = get_wsgi_application()
