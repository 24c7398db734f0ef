"""What is answered to whom asks for a site's health or its metrics, whatever served the request.

``/livez``, ``/startupz``, ``/readyz`` (and ``/healthz``, its older name) answer 200 or 503 with a
line of text; with ``?verbose`` a line for each check, and JSON to whom prefers that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, NamedTuple

from sitebus.control import exposition
from sitebus.control.families import Family

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

    from sitebus.control.checks import Check
    from sitebus.control.health import Health, Report

_JSON = "application/json"
_PLAIN = "text/plain; charset=utf-8"


class Question(NamedTuple):
    """A request, as far as it matters."""

    method: str
    path: str
    query: str = ""
    accept: str = ""


class Answer(NamedTuple):
    """A response; *head* alone is sent where the question was HEAD."""

    status: str
    content_type: str
    body: bytes
    headers: tuple[tuple[str, str], ...] = ()


def plain(status: str, text: str = "", *headers: tuple[str, str]) -> Answer:
    """Answer *status* with a line of text; with its own words if there is none."""
    return Answer(status, _PLAIN, f"{text or status}\n".encode(), headers)


class Answers:
    """Answers questions about a site.

    Args:
        health: Who knows how it is; None if nobody does.
        families: Its metrics; None if they are not told here.
        details: What checks say is told as well as whether they failed.
    """

    def __init__(
        self,
        health: Health | None,
        families: Callable[[], Iterable[Family]] | None = None,
        *,
        details: bool = True,
    ) -> None:
        self.health = health
        self.families = families
        self.details = details

    def answer(self, question: Question) -> Answer:
        """Answer any question; what it is not about is not found."""
        if question.method not in ("GET", "HEAD"):
            return plain("405 Method Not Allowed", "", ("Allow", "GET, HEAD"))
        if question.path == "/metrics" and self.families is not None:
            return self._metrics(self.families(), question.accept)
        if question.path not in ("/livez", "/readyz", "/healthz", "/startupz"):
            return plain("404 Not Found")
        if self.health is None:
            return plain("503 Service Unavailable", "nobody watches over this site's health")
        return self._probe(self.health, question)

    def _metrics(self, families: Iterable[Family], accept: str) -> Answer:
        modern = exposition.wants_open_metrics(accept)
        text = exposition.expose(families, open_metrics=modern)
        kind = exposition.OPEN_METRICS if modern else exposition.TEXT
        return Answer("200 OK", kind, text.encode())

    def _probe(self, health: Health, question: Question) -> Answer:
        asked = _parameters(question.query)
        exclude = [name for text in asked.get("exclude", ()) for name in text.split(",") if name]
        if question.path == "/livez":
            report = health.live()
        elif question.path == "/startupz":
            report = health.startup()
        else:
            report = health.ready(exclude)
        status = "200 OK" if report.ok else "503 Service Unavailable"
        if _JSON in question.accept.lower():
            return Answer(status, _JSON, self._as_json(report))
        if "verbose" in asked:
            return plain(status, "\n".join(self._lines(report)))
        names = ", ".join(check.name for check in report.failed)
        return plain(status, "ok" if report.ok else f"failed: {names}")

    def _lines(self, report: Report) -> Iterable[str]:
        for check in report.checks:
            yield f"{check.name}: {'ok' if check.ok else 'FAILED'}{self._said(check)}"
        for name in report.missing if self.details else ():
            yield f"there is no check {name[:60]!a} to leave out"
        yield "ok" if report.ok else "failed"

    def _said(self, check: Check) -> str:
        return f" ({check.detail})" if check.detail and self.details else ""

    def _as_json(self, report: Report) -> bytes:
        import json

        checks = [self._told(check) for check in report.checks]
        told = {"status": "ok" if report.ok else "failed", "checks": checks}
        return json.dumps(told).encode() + b"\n"

    def _told(self, check: Check) -> dict[str, Any]:
        told: dict[str, Any] = {"name": check.name, "ok": check.ok}
        if self.details:
            told |= {"detail": check.detail, "seconds": round(check.seconds, 6)}
        return told


def _parameters(query: str) -> dict[str, list[str]]:
    from urllib.parse import parse_qs

    try:
        return parse_qs(query, keep_blank_values=True, max_num_fields=100)
    except ValueError:
        return {}


def headers(answer: Answer) -> list[tuple[str, str]]:
    """Answer all headers of *answer*."""
    return [
        ("Content-Type", answer.content_type),
        ("Content-Length", str(len(answer.body))),
        ("Cache-Control", "no-store"),
        ("X-Content-Type-Options", "nosniff"),
        *answer.headers,
    ]


def wsgi(find: Callable[[], Health | None], *, details: bool) -> WSGIApplication:
    """Answer a WSGI application that tells of what *find* finds."""

    def health(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        # Mounted at ``/readyz`` itself, it gets no path.
        path = environ.get("PATH_INFO", "").strip("/") or environ.get("SCRIPT_NAME", "")
        question = Question(
            environ["REQUEST_METHOD"],
            f"/{path.rpartition('/')[2]}",
            environ.get("QUERY_STRING", ""),
            environ.get("HTTP_ACCEPT", ""),
        )
        answer = Answers(find(), details=details).answer(question)
        start_response(answer.status, headers(answer))
        return [] if question.method == "HEAD" else [answer.body]

    return health
