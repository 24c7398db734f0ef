"""What logs and pages are told of an ASGI request, and how the site itself answers one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sitebus.asgi import Scope, Send
    from sitebus.mounts import pages


def wire(path: str) -> str:
    """Answer *path* as WSGI spells it."""
    if path.isascii():
        return path
    return path.encode("utf-8", "surrogateescape").decode("latin-1")


def described(scope: Scope) -> dict[str, Any]:
    """Answer as much of a WSGI environ as logs and pages ask for."""
    told: dict[str, Any] = {
        "REQUEST_METHOD": scope.get("method", "GET"),
        "SCRIPT_NAME": "",
        "PATH_INFO": wire(scope["path"]),
        "QUERY_STRING": str(scope.get("query_string", b""), "latin-1"),
        "SERVER_PROTOCOL": f"HTTP/{scope.get('http_version', '1.1')}",
    }
    if scope.get("client"):
        told["REMOTE_ADDR"] = scope["client"][0]
    if scope.get("raw_path"):
        query = told["QUERY_STRING"]
        uri = str(scope["raw_path"], "latin-1")
        told["REQUEST_URI"] = f"{uri}?{query}" if query else uri
    for name, value in scope["headers"]:
        if name in _TOLD:
            told[_TOLD[name]] = str(value, "latin-1")
    return told


_TOLD = {
    b"host": "HTTP_HOST", b"accept": "HTTP_ACCEPT", b"referer": "HTTP_REFERER",
    b"user-agent": "HTTP_USER_AGENT",
}  # fmt: skip


async def send_answer(answer: pages.Answer, scope: Scope, send: Send) -> None:
    """Send what the site itself says."""
    status, headers, body = answer
    kind = "http.response"
    if scope["type"] == "websocket":
        kind = "websocket.http.response"
        if kind not in (scope.get("extensions") or ()):
            # To the client that is a 403.
            await send({"type": "websocket.close", "code": 1000, "reason": ""})
            return
    pairs = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in headers]
    await send({"type": f"{kind}.start", "status": int(status[:3]), "headers": pairs})
    await send({"type": f"{kind}.body", "body": b"" if scope.get("method") == "HEAD" else body})
