"""A filter for a pipeline."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from wsgiref.types import WSGIApplication, WSGIEnvironment


def signature(
    global_config: dict[str, str], header: str, value: str
) -> Callable[[WSGIApplication], WSGIApplication]:
    """Answer what adds a header to every response."""

    def around(app: WSGIApplication) -> WSGIApplication:
        def signed(environ: WSGIEnvironment, start_response: Any) -> Iterable[bytes]:
            def begin(status: str, headers: list[tuple[str, str]], *trouble: Any) -> Any:
                return start_response(status, [*headers, (header, value)], *trouble)

            return app(environ, begin)

        return signed

    return around
