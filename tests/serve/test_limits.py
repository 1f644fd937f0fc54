"""Bodies that are too large or too slow, ids of requests: the middleware alone, on made-up senders."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse

from serve import limits
from serve.errors import handle_errors
from serve.limits import Limits, request_id

app = FastAPI()
handle_errors(app)
app.add_middleware(Limits)


@app.post("/length")
async def length(request: Request) -> JSONResponse:
    size = 0
    async for chunk in request.stream():
        size += len(chunk)
    return JSONResponse({"length": size, "id": request_id(request.scope)})


def post(chunks: AsyncIterator[bytes], headers: dict[str, str] | None = None) -> tuple[int, dict[str, str], bytes, int]:
    """Status, headers and body of the answer, and how many bytes had been taken from the sender by then."""
    taken, answer = 0, {"body": b""}

    async def receive() -> dict[str, Any]:
        nonlocal taken
        async for chunk in chunks:
            taken += len(chunk)
            return {"type": "http.request", "body": chunk, "more_body": True}
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: dict[str, Any]) -> None:
        if message["type"] == "http.response.start":
            answer.update(message)
        else:
            answer["body"] += message.get("body", b"")

    scope = {
        "type": "http",
        "method": "POST",
        "path": "/length",
        "raw_path": b"/length",
        "query_string": b"",
        "root_path": "",
        "http_version": "1.1",
        "scheme": "http",
        "headers": [(name.encode(), value.encode("latin-1")) for name, value in (headers or {}).items()],
    }
    asyncio.run(app(scope, receive, send))
    answered = {name.decode(): value.decode() for name, value in answer["headers"]}
    return answer["status"], answered, answer["body"], taken


async def sent(*chunks: bytes, pause: float = 0.0) -> AsyncIterator[bytes]:
    for chunk in chunks:
        await asyncio.sleep(pause)
        yield chunk


async def endless(chunk: bytes, pause: float = 0.0) -> AsyncIterator[bytes]:
    while True:
        await asyncio.sleep(pause)
        yield chunk


def test_what_is_within_the_limits_passes() -> None:
    status, _, body, _ = post(sent(b"abc", b"", b"defg"))
    assert status == 200
    assert b'"length":7' in body


def test_an_announced_oversize_is_refused_before_anything_is_taken() -> None:
    status, _, body, taken = post(endless(b"x"), {"content-length": str(limits.MAX_BODY_BYTES + 1)})
    assert (status, taken) == (413, 0)
    assert b"64 MiB" in body


def test_an_unannounced_oversize_is_refused_as_it_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "MAX_BODY_BYTES", 1000)
    status, _, _, taken = post(endless(b"x" * 300))
    assert (status, taken) == (413, 1200)
    assert post(sent(b"x" * 1000))[0] == 200


def test_who_drips_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "GRACE_SECONDS", 0.5)
    status, headers, body, taken = post(endless(b"x", pause=0.05))
    assert status == 408
    assert headers["connection"] == "close"
    assert b"too slowly" in body
    assert taken <= 15


def test_who_says_nothing_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "GRACE_SECONDS", 0.2)
    assert post(endless(b"x", pause=60.0))[0] == 408


def test_who_was_quick_at_first_earns_no_long_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "GRACE_SECONDS", 0.2)

    async def burst_then_nothing() -> AsyncIterator[bytes]:
        yield b"x" * (1 << 20)  # 16 s worth
        await asyncio.sleep(8)

    status, _, body, taken = post(burst_then_nothing())
    assert (status, taken) == (408, 1 << 20), body


def test_a_large_body_on_a_thin_line_may_take_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "GRACE_SECONDS", 0.5)
    monkeypatch.setattr(limits, "MIN_BYTES_PER_SECOND", 1000)
    status, _, body, _ = post(sent(*[b"x" * 500] * 10, pause=0.1))  # twice the grace, at 5000 bytes a second
    assert status == 200, body


def test_the_applications_own_waiting_is_not_the_senders_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "GRACE_SECONDS", 0.3)

    async def read_slowly() -> int:
        size, chunks = 0, [b"x"] * 5

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": chunks.pop(), "more_body": bool(chunks)}

        receive_limited, more = limits.limited({"type": "http", "headers": []}, receive), True
        while more:
            await asyncio.sleep(0.15)
            message = await receive_limited()
            size, more = size + len(message["body"]), message["more_body"]
        return size

    assert asyncio.run(read_slowly()) == 5


@pytest.mark.parametrize("sent_id", ["abc-123", "x" * 128, "a/b:c=d@e+f"])
def test_an_id_that_is_sent_comes_back(sent_id: str) -> None:
    _, _, body, _ = post(sent(b""), {limits.ID_HEADER: sent_id})
    assert f'"id":"{sent_id}"'.encode() in body


@pytest.mark.parametrize("sent_id", ["", "a b", "x" * 129, "ü", "<script>", "a\tb", '"'])
def test_an_unfit_id_is_replaced(sent_id: str) -> None:
    _, _, body, _ = post(sent(b""), {limits.ID_HEADER: sent_id})
    assert f'"id":"{sent_id}"'.encode() not in body


def test_an_id_is_made_for_answers_and_errors_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    _, headers, body, _ = post(sent(b""))
    assert headers[limits.ID_HEADER] in body.decode()
    monkeypatch.setattr(limits, "MAX_BODY_BYTES", 1)
    status, headers, body, _ = post(sent(b"xx"))
    assert status == 413
    assert headers[limits.ID_HEADER] in body.decode()
