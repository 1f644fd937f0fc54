"""What happens to a request before Serve sees it, inside Serve's proxy: on every node, in front of every replica.

Serve loads it where RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH=serve.proxy.middlewares is set for a cluster's processes.
Without it the application still limits what it is sent, but Serve's proxy then takes in a whole body before anybody
looks at it, a slow sender holds one of the gateway's places, and a request whose gateway was killed is lost.
"""

import asyncio
import http
import logging
import re
from typing import Any

import uvicorn.config
from starlette.datastructures import Headers, MutableHeaders
from starlette.middleware import Middleware
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from o2n.errors import O2NError, OverloadedError
from serve import limits, metrics
from serve.errors import answer_to, error_answer
from serve.limits import ID_HEADER, limited, patience_after, request_id

# All bodies that a proxy holds at once: what it may cost in memory, however many send.
MAX_HELD_BYTES = 1 << 30
# Of a request's line and headers, and of a chunked body's trailers.
MAX_HEAD_BYTES = 64 << 10
ATTEMPTS = 4
# Longer than a gateway takes to find a category and score (catalog.py, app.py): who has no answer by then waits for a
# gateway.
ANSWER_SECONDS = 60.0
PAUSE_SECONDS = 0.25
# Longer than `Intake` waits for a body, so that its 408 comes first.
EXTRA_SECONDS = 2.0
# Headers of Ray Serve's own (ray.serve._private.constants), in small letters and with hyphens.
ORDERS = {
    b"x-request-timeout-seconds",
    b"x-request-disconnect-disabled",
    b"x-session-id",
    b"serve-multiplexed-model-id",
}
# In the metrics, in the place of a route: what a proxy answers itself no gateway sees, nor counts.
ROUTE = "(proxy)"

# Done twice they are the same as done once, if nobody has said otherwise in between; a rollback is not.
_REPEATABLE = re.compile(r"/v1/categories/[^/]+/(score|feedback)|/v2/models/.+/infer")

logger = logging.getLogger("ray.serve")


def middlewares() -> list[Middleware]:
    """Serve calls this in each proxy before it listens."""
    uvicorn.config.HTTP_PROTOCOLS["auto"] = f"{__name__}:DeadlineProtocol"
    return [Middleware(Intake)]


class Intake:
    """ASGI middleware: takes a request in whole, within the limits, and hands it on until somebody answers."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self.held = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        _without_orders(scope)
        # Serve takes any bytes for an id, and fails at some.
        MutableHeaders(scope=scope)[ID_HEADER] = request_id(scope)
        body = _Body(self)
        try:
            receive_limited = limited(scope, receive)
            more = True
            while more:
                message = await receive_limited()
                if message["type"] == "http.disconnect":
                    return
                body.add(message.get("body", b""))
                more = message.get("more_body", False)
                if more and self.held > MAX_HELD_BYTES:
                    raise OverloadedError("the service is taking in as much as it can hold: try again later")
            body.data = bytes(body.data)  # else every attempt would hold a copy
            await self._hand_on(scope, body, receive, send)
        except O2NError as error:
            await _own(scope, answer_to(scope, error))(scope, receive, send)
        finally:
            body.drop()

    async def _hand_on(self, scope: Scope, body: "_Body", receive: Receive, send: Send) -> None:
        """Until it is answered: Serve answers nothing when the replica that had the request is gone."""
        repeatable = scope["method"] in ("GET", "HEAD") or _REPEATABLE.fullmatch(scope["path"])
        clock = asyncio.get_running_loop().time
        give_up = clock() + ANSWER_SECONDS
        for attempt in range(ATTEMPTS if repeatable else 1):
            answer = _Answer(scope, send, body)
            gone = await self._once(scope, body, receive, answer, give_up - clock())
            if answer.started or gone:
                return
            if clock() >= give_up:
                break
            logger.warning("request %s was lost with its replica (attempt %d)", request_id(scope), attempt + 1)
            await asyncio.sleep(PAUSE_SECONDS * 2**attempt)
        message = "the part of the service that had this request was lost, and no other took it: send it again"
        await _own(scope, error_answer(scope, 503, "unavailable", message))(scope, receive, send)

    async def _once(self, scope: Scope, body: "_Body", receive: Receive, answer: "_Answer", seconds: float) -> bool:
        """One attempt, which is given up after so many seconds, in the middle of its answer too.

        Returns: whether the client went away meanwhile.
        """
        handed, gone = False, False

        async def receive_again() -> Message:
            nonlocal handed, gone
            if not handed:
                handed = True
                return {"type": "http.request", "body": bytes(body.data), "more_body": False}
            message = await receive()
            gone = message["type"] == "http.disconnect"
            return message

        # Serve writes into the scope, and every attempt starts from the same.
        task = asyncio.ensure_future(self._app({**scope, "headers": list(scope["headers"])}, receive_again, answer))
        try:
            # Not `asyncio.timeout`: Serve swallows the cancellation that it is made of.
            await asyncio.wait({task}, timeout=max(0.0, seconds))
        finally:
            task.cancel()
        if not task.done():
            logger.error("request %s: Serve did not end its answer in time", request_id(scope))
        elif (error := task.exception()) is not None:
            logger.error("request %s: Serve's proxy failed", request_id(scope), exc_info=error)
            if answer.started:
                raise error
        return gone


def _without_orders(scope: Scope) -> None:
    """Take away the headers that Serve obeys whoever sends them: they shorten its patience, or send a request to one
    replica. Bytes that are no text in some of them it fails at, and keeps the body for good."""
    scope["headers"] = [
        (name, value) for name, value in scope["headers"] if name.lower().replace(b"_", b"-") not in ORDERS
    ]


class _Body:
    """A request's body, counted among those that its proxy holds until it is dropped."""

    def __init__(self, intake: Intake) -> None:
        self._intake = intake
        self.data: bytes | bytearray = bytearray()

    def add(self, more: bytes) -> None:
        self.data += more
        self._intake.held += len(more)

    def drop(self) -> None:
        self._intake.held -= len(self.data)
        self.data = b""


class _Answer:
    """An ASGI `send` that lets an answer out once it has a body, and Serve's own refusals in the service's shape."""

    def __init__(self, scope: Scope, send: Send, body: _Body) -> None:
        self._scope, self._send, self._body = scope, send, body
        self._start: Message | None = None
        self.started = False

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._start = message
            return
        start, self._start = self._start, None
        if start is not None:
            self.started = True
            self._body.drop()  # nobody is asked again, and the client may take its time to read
            if self._is_serves_own(start):
                await self._reshape(start, message)
                return
            await self._send(start)
        if self.started:
            await self._send(message)

    def _is_serves_own(self, start: Message) -> bool:
        kind = Headers(raw=start["headers"]).get("content-type", "")
        return start["status"] >= 400 and kind.startswith("text/plain") and not self._scope["path"].startswith("/-/")

    async def _reshape(self, start: Message, message: Message) -> None:
        status = start["status"]
        sent = Headers(raw=start["headers"])
        kept = {"retry-after": sent["retry-after"]} if "retry-after" in sent else {}
        said = message.get("body", b"").decode(errors="replace")
        logger.warning("request %s: Serve refused it: %d %s", request_id(self._scope), status, said)
        # Its queues answer 429 (config.yaml): a 503 of its own is of a deployment that has failed or is gone.
        known = {429: "overloaded", 503: "unavailable"}
        code = known.get(status) or http.HTTPStatus(status).phrase.lower().replace(" ", "_")
        text = f"the service cannot take this request now ({http.HTTPStatus(status).phrase}): try again later"
        await _own(self._scope, error_answer(self._scope, status, code, text, kept))(self._scope, _nothing, self._send)


async def _nothing() -> Message:
    return {"type": "http.disconnect"}


def _own(scope: Scope, answer: JSONResponse) -> Response:
    """An answer that this proxy gives itself: with the request's id, and counted."""
    answer.headers[ID_HEADER] = request_id(scope)
    _count(answer.status_code, scope["state"]["error_code"])
    return answer


def _count(status: int, code: str) -> None:
    metrics.REQUESTS.inc(tags={"route": ROUTE, "status": str(status), "code": code})


class DeadlineProtocol(HttpToolsProtocol):
    """uvicorn's HTTP protocol with what it lacks.

    A time by which a request must have arrived, its headers included, and one by which its answer must have been taken
    up; and a size that the headers may have.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._due = 0.0
        self._deadline: asyncio.TimerHandle | None = None
        self._unread: asyncio.TimerHandle | None = None
        self._head = 0
        # What the parser has taken in since it last gave something out: it keeps a header until that is complete.
        self._parsing = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._expect_request()

    def data_received(self, data: bytes) -> None:
        now = self.loop.time()
        self._due = now + patience_after(self._due - now, len(data))
        self._parsing += len(data)
        super().data_received(data)
        if self._parsing > MAX_HEAD_BYTES and not self.transport.is_closing():
            self._refuse_head()
        # A line break between two requests begins none, and yet ends uvicorn's own waiting for the next.
        if self._deadline is None and (self.cycle is None or self.cycle.response_complete):
            self._expect_request()

    def pause_writing(self) -> None:
        super().pause_writing()
        # Of a reader is asked what is asked of a sender.
        patience = limits.GRACE_SECONDS + self.transport.get_write_buffer_size() / limits.MIN_BYTES_PER_SECOND
        self._unread = self.loop.call_later(patience, self.transport.abort)

    def resume_writing(self) -> None:
        self._expect_no_reading()
        super().resume_writing()

    def on_message_begin(self) -> None:
        self._head = 0
        super().on_message_begin()
        self._expect_nothing()
        self._expect_request()

    def on_url(self, url: bytes) -> None:
        self._count_head(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._count_head(len(name) + len(value))
        super().on_header(name, value)

    def on_body(self, body: bytes) -> None:
        self._parsing = 0
        super().on_body(body)

    def send_400_response(self, msg: str) -> None:
        if self._head > MAX_HEAD_BYTES:
            self._refuse_head()
        else:
            _count(400, "bad_request")
            super().send_400_response(msg)

    def on_message_complete(self) -> None:
        self._expect_nothing()
        super().on_message_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        self._expect_nothing()
        self._expect_no_reading()
        super().connection_lost(exc)

    def _count_head(self, size: int) -> None:
        self._parsing = 0
        self._head += size
        if self._head > MAX_HEAD_BYTES:
            raise ValueError("the head is too large")  # ends the parsing; uvicorn then calls `send_400_response`

    def _refuse_head(self) -> None:
        scope: Scope = {"type": "http", "path": "", "headers": []}
        message = f"the request's line and headers are over {MAX_HEAD_BYTES >> 10} KiB: send fewer or shorter ones"
        answer = _own(scope, error_answer(scope, 431, "too_large", message, {"connection": "close"}))
        head = b"".join(b"%b: %b\r\n" % header for header in answer.raw_headers)
        self.transport.write(b"HTTP/1.1 431 Request Header Fields Too Large\r\n" + head + b"\r\n" + bytes(answer.body))
        self.transport.close()

    def _expect_no_reading(self) -> None:
        if self._unread is not None:
            self._unread.cancel()
            self._unread = None

    def _expect_request(self) -> None:
        self._due = self.loop.time() + limits.GRACE_SECONDS
        self._check_deadline()

    def _expect_nothing(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _check_deadline(self) -> None:
        due = self._due + EXTRA_SECONDS
        if self.loop.time() < due:
            self._deadline = self.loop.call_at(due, self._check_deadline)
        else:
            self._deadline = None
            self.transport.abort()
