"""The gallery's application in Django, served by way of ASGI.

A process has one Django: its settings and views are those of django_app.py.
"""

from __future__ import annotations

import django_app  # noqa: F401 - importing it configures Django
from django.core.asgi import get_asgi_application

application = get_asgi_application()
