"""Around the whole application: counts, times and logs every request once, refused ones too. Knows no route by name.

A line of the log has what happened, to which version, and how long it took, never a picture, a header or a token. Serve
adds the request id, and with `encoding: JSON` in serve/config.yaml every value below is a field of its own.
"""

import asyncio
import logging
from time import perf_counter
from typing import Any

from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from o2n.category import VersionRef
from serve import metrics

UNKNOWN_ROUTE = "(none)"
CLIENT_GONE = 499  # nginx's number for a client that did not wait for the answer

logger = logging.getLogger("ray.serve")


def note_scored(request: Request, ref: VersionRef, pictures: int) -> None:
    """Have the request's line in the log say which version scored how many pictures."""
    request.state.scored = {"category": ref.category, "version": ref.version, "pictures": pictures}


class Observer:
    """ASGI middleware; the outermost, so that what the others refuse is seen."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        begun = perf_counter()
        state = scope.setdefault("state", {})
        status = 500

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            return await self._app(scope, receive, watched)
        except Exception:
            state["error_code"] = "internal"  # Starlette answers it, further out
            raise
        except asyncio.CancelledError:
            status, state["error_code"] = CLIENT_GONE, "client_gone"
            raise
        finally:
            _record(scope, status, perf_counter() - begun)


def _record(scope: Scope, status: int, seconds: float) -> None:
    # The route's pattern, not the path: a path is whatever a client makes up.
    route = getattr(scope.get("route"), "path", UNKNOWN_ROUTE)
    code: str = scope["state"].get("error_code", "")
    scored: dict[str, Any] = scope["state"].get("scored", {})
    metrics.REQUESTS.inc(tags={"route": route, "status": str(status), "code": code})
    metrics.REQUEST_SECONDS.observe(seconds, {"route": route})
    milliseconds = round(1000 * seconds, 1)
    logger.info(
        "%s %s %d %s %.1fms%s",
        scope["method"],
        route,
        status,
        code or "ok",
        milliseconds,
        "".join(f" {name}={value}" for name, value in scored.items()),
        extra={"status": status, "code": code, "milliseconds": milliseconds, **scored},
    )
