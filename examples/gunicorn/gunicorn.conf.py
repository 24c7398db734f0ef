"""What gunicorn is told; its settings are names in this file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

bind = "127.0.0.1:8080"
chdir = str(Path(__file__).parent)
wsgi_app = "wsgi:application"
workers = 2
threads = 4
graceful_timeout = 20

# Import the applications once, before the workers are forked: they share the memory.
preload_app = True


def post_worker_init(worker: Any) -> None:
    """Start the site in the worker now; without preload_app, or this, it starts by itself."""
    worker.wsgi.start()
