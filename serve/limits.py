"""What a request may be: how large, how slow, under which id. Pure ASGI: the application uses it, and Serve's proxy.

It asks at least `MIN_BYTES_PER_SECOND` of a sender, and forgives `GRACE_SECONDS` of silence: a fixed time would either
cut off large pictures on a thin line or let a sender that drips bytes hold on for minutes. Who was quick at first earns
no more silence than that.
"""

import asyncio
import re
import uuid
from typing import cast

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from o2n.errors import TooLargeError, TooSlowError

MAX_BODY_BYTES = 64 << 20
GRACE_SECONDS = 8.0
MIN_BYTES_PER_SECOND = 64 << 10

ID_HEADER = "x-request-id"

# Whatever a client sends here ends up in logs and in answers.
_FIT_ID = re.compile(r"[A-Za-z0-9._:/+=@-]{1,128}")


class Limits:
    """ASGI middleware: the body is limited while it arrives, and the request has an id."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        # Serve's proxy puts the id into every answer; where it made none, this is not behind Serve's proxy.
        behind_proxy = ID_HEADER in Headers(scope=scope)
        made = request_id(scope)

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start" and not behind_proxy:
                MutableHeaders(scope=message)[ID_HEADER] = made
            await send(message)

        await self._app(scope, limited(scope, receive), send_with_id)


def request_id(scope: Scope) -> str:
    """The id of a request: the client's own, where it is fit to be logged, else one that is made here and kept."""
    state = scope.setdefault("state", {})
    if "request_id" not in state:
        sent = Headers(scope=scope).get(ID_HEADER, "")
        state["request_id"] = sent if _FIT_ID.fullmatch(sent) else uuid.uuid4().hex
    return cast(str, state["request_id"])


def limited(scope: Scope, receive: Receive) -> Receive:
    """`receive` that stops taking in a body as soon as it is too large or too slow.

    Raises: (when called)
        TooLargeError: over `MAX_BODY_BYTES`, by what its header says or by what came.
        TooSlowError: see the top of this file. Only time spent waiting for the sender counts.
    """
    clock = asyncio.get_running_loop().time
    declared = Headers(scope=scope).get("content-length", "")
    size, patience, complete = 0, GRACE_SECONDS, False

    async def receive_limited() -> Message:
        nonlocal size, patience, complete
        if complete:  # what comes now is the client going away
            return await receive()
        if declared.isdecimal() and int(declared) > MAX_BODY_BYTES:
            raise too_large()
        begun = clock()
        try:
            async with asyncio.timeout(patience):
                message = await receive()
        except TimeoutError:
            raise TooSlowError(
                f"the body arrives too slowly ({size} bytes, then {GRACE_SECONDS:.0f} s of almost nothing): send "
                f"at least {MIN_BYTES_PER_SECOND >> 10} KiB a second"
            ) from None
        came = len(message.get("body", b""))
        size += came
        patience = patience_after(patience - (clock() - begun), came)
        complete = not message.get("more_body", False)
        if size > MAX_BODY_BYTES:
            raise too_large()
        return message

    return receive_limited


def patience_after(left: float, came: int) -> float:
    """For how many seconds a sender may be silent, of which there were `left` before `came` bytes came."""
    return min(GRACE_SECONDS, left + came / MIN_BYTES_PER_SECOND)


def check_json(body: bytes, most: int, instead: str) -> None:
    """Refuse JSON that would take seconds to parse, in which nothing else of the process gets its turn.

    Args: most: values it may have, as told by its commas; instead: what to do, for the error.

    Raises:
        TooLargeError: it may have more.
    """
    if body.count(b",") >= most:
        raise TooLargeError(f"the JSON body has over {most} values: {instead}")


def too_large() -> TooLargeError:
    return TooLargeError(f"the body is over {MAX_BODY_BYTES >> 20} MiB: send fewer or smaller pictures")
