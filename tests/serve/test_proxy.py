"""What stands before Serve, on a real uvicorn and real sockets, with a made-up Serve behind it."""

import asyncio
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import httpx
import pytest
from ray.serve._private import constants
from ray.util.metrics import Counter
from starlette.types import ASGIApp, Receive, Scope, Send

from serve import limits, proxy
from serve.proxy import DeadlineProtocol, Intake
from tests.helpers import listening

SCORE = "/v1/categories/bolts/score"


async def read_body(receive: Receive) -> bytes:
    body, more = b"", True
    while more:
        message = await receive()
        body, more = body + message.get("body", b""), message.get("more_body", False)
    return body


async def answer(send: Send, status: int, body: bytes, kind: bytes = b"application/json") -> None:
    await send({"type": "http.response.start", "status": status, "headers": [(b"content-type", kind)]})
    await send({"type": "http.response.body", "body": body})


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    body = await read_body(receive)
    sent_id = dict(scope["headers"])[b"x-request-id"].decode()
    await answer(send, 200, json.dumps({"length": len(body), "id": sent_id}).encode())


@contextmanager
def behind_intake(app: ASGIApp) -> Iterator[httpx.Client]:
    """`app` as Serve would run it."""
    with listening(Intake(app), DeadlineProtocol) as url, httpx.Client(base_url=url, timeout=30) as client:
        yield client


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Deadlines that a test can wait for."""
    monkeypatch.setattr(limits, "GRACE_SECONDS", 1.0)
    monkeypatch.setattr(proxy, "EXTRA_SECONDS", 0.5)


GOOD = b"POST /v1/categories/bolts/score HTTP/1.1\r\nhost: o2n\r\ncontent-length: 1\r\n\r\nx"


def connect(client: httpx.Client) -> socket.socket:
    return socket.create_connection((client.base_url.host, client.base_url.port), timeout=20)


def drip(connection: socket.socket, start: bytes, stop: float) -> bytes:
    """Send `start`, then a byte now and then, until the other side closes; returns what it said."""
    connection.sendall(start)
    connection.settimeout(0.1)
    said = b""
    while time.monotonic() < stop:
        try:
            data = connection.recv(4096)
            said += data
            if not data:
                return said
        except TimeoutError:
            with suppress(OSError):
                connection.sendall(b"x")
        except ConnectionError:
            return said
    raise AssertionError("still connected")


def test_a_request_passes_whole_with_an_id() -> None:
    with behind_intake(echo) as client:
        found = client.post(SCORE, content=b"x" * 300_000).json()
        assert found["length"] == 300_000
        assert len(found["id"]) == 32
        assert client.post(SCORE, headers={"x-request-id": "mine"}).json()["id"] == "mine"
        assert client.post(SCORE, headers={"x-request-id": b"\xff\xfe"}).json()["id"].isalnum()
        assert client.get("/v1/categories").json()["length"] == 0


def test_what_serve_would_obey_is_taken_away() -> None:
    async def names(scope: Scope, receive: Receive, send: Send) -> None:
        await answer(send, 200, json.dumps([name.decode() for name, _ in scope["headers"]]).encode())

    orders = ("X-Request-Timeout-Seconds", "x_request_timeout_seconds", "x-request-disconnect-disabled")
    orders += ("x-session-id", "serve_multiplexed_model_id", "serve-multiplexed-model-id")
    with behind_intake(names) as client:
        kept = client.post(SCORE, headers={**dict.fromkeys(orders, b"\xff"), "x-other": "mine"}).json()
    assert "x-other" in kept
    assert not {name.lower() for name in orders} & set(kept)


def test_they_are_all_that_this_ray_serve_obeys() -> None:
    told = [
        constants.SERVE_HTTP_REQUEST_TIMEOUT_S_HEADER,
        constants.SERVE_HTTP_REQUEST_DISCONNECT_DISABLED_HEADER,
        constants.SERVE_SESSION_ID,
        constants.SERVE_MULTIPLEXED_MODEL_ID,
    ]
    assert {name.lower().replace("_", "-").encode() for name in told} == proxy.ORDERS


@pytest.mark.parametrize(
    "start",
    [
        b"",
        b"POST /v1/categories/bolts/score HTTP/1.1\r\nhost: o2n\r\n",
        b"POST /v1/categories/bolts/score HTTP/1.1\r\nhost: o2n\r\nx-header: ",
    ],
)
def test_who_never_ends_its_headers_is_cut_off(quick: None, start: bytes) -> None:
    with behind_intake(echo) as client, connect(client) as connection:
        drip(connection, start, time.monotonic() + 15)


def test_who_drips_a_body_is_told_and_cut_off(quick: None) -> None:
    start = b"POST /v1/categories/bolts/score HTTP/1.1\r\nhost: o2n\r\ncontent-length: 1000\r\n\r\n"
    with behind_intake(echo) as client, connect(client) as connection:
        said = drip(connection, start, time.monotonic() + 15)
    assert said.startswith(b"HTTP/1.1 408 ")
    assert b"too slowly" in said
    assert b"x-request-id: " in said


def test_who_drips_after_a_good_request_is_cut_off_too(quick: None) -> None:
    with behind_intake(echo) as client, connect(client) as connection:
        said = drip(connection, GOOD + b"POST /", time.monotonic() + 15)
    assert said.startswith(b"HTTP/1.1 200 ")


def test_a_line_break_after_an_answer_holds_no_connection(quick: None) -> None:
    with behind_intake(echo) as client, connect(client) as connection:
        connection.sendall(GOOD)
        assert connection.recv(4096).startswith(b"HTTP/1.1 200 ")
        connection.sendall(b"\r\n")
        connection.settimeout(20)
        with suppress(ConnectionError):
            assert connection.recv(4096) == b""


def test_who_sends_half_a_body_at_once_is_not_waited_for_longer(quick: None) -> None:
    start = b"POST /v1/categories/bolts/score HTTP/1.1\r\nhost: o2n\r\ncontent-length: 20000000\r\n\r\n"
    with behind_intake(echo) as client, connect(client) as connection:
        connection.sendall(start + b"x" * 10_000_000)  # at 64 KiB a second two and a half minutes
        connection.settimeout(20)
        assert connection.recv(4096).startswith(b"HTTP/1.1 408 ")


def test_two_hundred_slow_senders_keep_nobody_else_waiting(quick: None) -> None:
    start = b"POST /v1/categories/bolts/score HTTP/1.1\r\nhost: o2n\r\ncontent-length: 1000\r\n\r\n"
    with behind_intake(echo) as client:
        connections = [connect(client) for _ in range(200)]
        begun = time.monotonic()
        for connection in connections:
            connection.sendall(start)
        assert client.post(SCORE, content=b"abc", timeout=5).status_code == 200
        for connection in connections:
            connection.settimeout(max(0.1, begun + 30 - time.monotonic()))
            assert connection.recv(4096).startswith(b"HTTP/1.1 408 ")
            connection.close()
        assert client.post(SCORE, content=b"abc").status_code == 200


@pytest.mark.parametrize(
    "rest",
    [b"x: y\r\n" * 100_000, b"x: " + b"y" * 600_000, b"x: " + b"y" * 70_000 + b"\r\n\r\n"],
    ids=["many", "endless", "large"],
)
def test_headers_are_bounded(rest: bytes) -> None:
    with behind_intake(echo) as client, connect(client) as connection:
        with suppress(ConnectionError):
            connection.sendall(b"GET / HTTP/1.1\r\nhost: o2n\r\n" + rest)
        said = connection.recv(4096)
        assert said.startswith(b"HTTP/1.1 431 ")
        assert json.loads(said.partition(b"\r\n\r\n")[2])["error"]["code"] == "too_large"
        with suppress(ConnectionError):
            assert connection.recv(4096) == b""


def test_trailers_are_bounded() -> None:
    head = b"POST /v1/categories/bolts/score HTTP/1.1\r\nhost: o2n\r\ntransfer-encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n"
    with behind_intake(echo) as client, connect(client) as connection:
        with suppress(ConnectionError):
            connection.sendall(head + b"x: " + b"y" * 600_000)
        assert connection.recv(4096).startswith(b"HTTP/1.1 431 ")


def test_large_headers_and_many_small_chunks_pass() -> None:
    with behind_intake(echo) as client:
        headers = {"x-large": "y" * 60_000}
        assert client.post(SCORE, content=(b"x" for _ in range(20_000)), headers=headers).json()["length"] == 20_000


async def answer_at_length(scope: Scope, receive: Receive, send: Send) -> None:
    await read_body(receive)
    await send({"type": "http.response.start", "status": 200, "headers": []})
    for _ in range(1000):
        await send({"type": "http.response.body", "body": b"x" * 100_000, "more_body": True})
    await send({"type": "http.response.body", "body": b""})


def test_who_does_not_read_its_answer_holds_no_body(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proxy, "MAX_HELD_BYTES", 100_000)
    head = b"POST /v1/categories/bolts/score HTTP/1.1\r\nhost: o2n\r\ncontent-length: 90000\r\n\r\n"
    with behind_intake(answer_at_length) as client, connect(client) as first, connect(client) as second:
        for connection in (first, second):
            connection.sendall(head + b"x" * 45_000)
            time.sleep(0.3)
            connection.sendall(b"x" * 45_000)
            assert connection.recv(100).startswith(b"HTTP/1.1 200 ")


def test_who_does_not_read_its_answer_is_cut_off(quick: None) -> None:
    ended = threading.Event()

    async def watched(scope: Scope, receive: Receive, send: Send) -> None:
        await answer_at_length(scope, receive, send)
        ended.set()

    with behind_intake(watched) as client, connect(client) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nhost: o2n\r\n\r\n")
        assert ended.wait(20)


def test_an_announced_oversize_is_refused_before_it_is_sent() -> None:
    head = b"POST / HTTP/1.1\r\nhost: o2n\r\nexpect: 100-continue\r\ncontent-length: %d\r\n\r\n"
    with behind_intake(echo) as client, connect(client) as connection:
        connection.sendall(head % (limits.MAX_BODY_BYTES + 1))
        assert connection.recv(4096).startswith(b"HTTP/1.1 413 ")  # and not 100
    with behind_intake(echo) as client:
        refused = client.post(SCORE, content=b"x" * (limits.MAX_BODY_BYTES + 1))
        assert refused.status_code == 413
        assert refused.json()["error"]["request_id"] == refused.headers["x-request-id"]


def test_all_bodies_together_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proxy, "MAX_HELD_BYTES", 100_000)
    head = b"POST /v1/categories/bolts/score HTTP/1.1\r\nhost: o2n\r\ncontent-length: 200000\r\n\r\n"
    with behind_intake(echo) as client:
        with connect(client) as first:
            first.sendall(head + b"x" * 90_000)
            time.sleep(0.3)
            with connect(client) as second:
                second.sendall(head + b"x" * 90_000)
                said = second.recv(4096)
        assert said.startswith(b"HTTP/1.1 429 ")
        assert b"retry-after: " in said
        time.sleep(0.3)
        assert client.post(SCORE, content=b"x" * 50_000).status_code == 200  # nothing is held any more


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str, str]]:
    """Route, status and code of every request that is counted."""
    found: list[tuple[str, str, str]] = []
    monkeypatch.setattr(Counter, "inc", lambda self, tags: found.append((tags["route"], tags["status"], tags["code"])))
    return found


@pytest.mark.parametrize(
    ("sent", "status", "code"),
    [
        (b"no HTTP", "400", "bad_request"),
        (b"POST / HTTP/1.1\r\nhost: o2n\r\ncontent-length: 9\r\n\r\nx", "408", "too_slow"),
        (b"POST / HTTP/1.1\r\nhost: o2n\r\ncontent-length: 99999999\r\n\r\nx", "413", "too_large"),
        (b"POST / HTTP/1.1\r\nhost: o2n\r\ncontent-length: 9999999\r\n\r\n" + b"x" * 200_000, "429", "overloaded"),
        (b"GET / HTTP/1.1\r\nhost: o2n\r\nx: " + b"y" * 70_000 + b"\r\n\r\n", "431", "too_large"),
    ],
    ids=["no HTTP", "slow", "large body", "full", "large head"],
)
def test_what_a_proxy_refuses_is_counted(
    quick: None,
    monkeypatch: pytest.MonkeyPatch,
    counted: list[tuple[str, str, str]],
    sent: bytes,
    status: str,
    code: str,
) -> None:
    monkeypatch.setattr(proxy, "MAX_HELD_BYTES", 100_000)
    with behind_intake(echo) as client:
        with connect(client) as connection:
            connection.sendall(sent)
            assert connection.recv(4096).startswith(f"HTTP/1.1 {status} ".encode())
        assert client.post(SCORE, content=b"x").status_code == 200  # which is the gateway's to count
    assert counted == [("(proxy)", status, code)]


def test_what_is_lost_or_refused_behind_a_proxy_is_counted(counted: list[tuple[str, str, str]]) -> None:
    async def refuse(scope: Scope, receive: Receive, send: Send) -> None:
        await answer(send, 429, b"Deployment full", b"text/plain; charset=utf-8")

    for app in (losing(100, lose_silently)[0], refuse):
        with behind_intake(app) as client:
            client.post("/v1/categories/bolts/rollback")
    assert counted == [("(proxy)", "503", "unavailable"), ("(proxy)", "429", "overloaded")]


def losing(times: int, lose: Callable[[Send], Any]) -> tuple[ASGIApp, list[bytes]]:
    """A Serve whose replica is lost that many times before one answers, and the bodies it was given."""
    bodies: list[bytes] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        bodies.append(await read_body(receive))
        if len(bodies) <= times:
            await lose(send)
            return
        await answer(send, 200, b'{"score": 1}')

    return app, bodies


async def lose_silently(send: Send) -> None:
    pass


async def lose_after_the_headers(send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})


async def lose_with_an_error(send: Send) -> None:
    raise UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte")


@pytest.mark.parametrize("lose", [lose_silently, lose_after_the_headers, lose_with_an_error])
def test_a_lost_request_is_handed_on_again(lose: Callable[[Send], Any]) -> None:
    app, bodies = losing(2, lose)
    with behind_intake(app) as client:
        assert client.post(SCORE, content=b"picture").json() == {"score": 1}
    assert bodies == [b"picture"] * 3


@pytest.mark.parametrize("path", ["/v1/categories/bolts/rollback", "/elsewhere"])
def test_what_must_not_happen_twice_does_not(path: str) -> None:
    app, bodies = losing(1, lose_silently)
    with behind_intake(app) as client:
        lost = client.post(path)
    assert lost.status_code == 503
    assert lost.json()["error"]["code"] == "unavailable"
    assert "retry-after" in lost.headers
    assert len(bodies) == 1


def test_a_request_that_is_always_lost_ends() -> None:
    app, bodies = losing(100, lose_silently)
    with behind_intake(app) as client:
        assert client.post(SCORE, content=b"x").status_code == 503
    assert len(bodies) == proxy.ATTEMPTS


def test_a_request_that_nobody_takes_up_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proxy, "ANSWER_SECONDS", 0.5)

    async def never(scope: Scope, receive: Receive, send: Send) -> None:
        with suppress(asyncio.CancelledError):  # as Serve does
            await asyncio.sleep(60)

    with behind_intake(never) as client:
        assert client.post(SCORE, content=b"x", timeout=20).status_code == 503


def test_an_answer_that_stops_in_its_middle_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proxy, "ANSWER_SECONDS", 0.5)

    async def stop(scope: Scope, receive: Receive, send: Send) -> None:
        await read_body(receive)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"half an answer", "more_body": True})
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(60)

    with behind_intake(stop) as client, pytest.raises(httpx.RemoteProtocolError, match="incomplete"):
        client.post(SCORE, content=b"x", timeout=10)


@pytest.mark.parametrize(("status", "code"), [(429, "overloaded"), (503, "unavailable")])
def test_serves_own_refusals_get_the_services_shape(status: int, code: str) -> None:
    async def refuse(scope: Scope, receive: Receive, send: Send) -> None:
        await answer(send, status, b"Deployment unavailable", b"text/plain; charset=utf-8")

    with behind_intake(refuse) as client:
        refused = client.post(SCORE, headers={"x-request-id": "mine"})
        kserve = client.post("/v2/models/bolts/infer")
        health = client.get("/-/healthz")
    assert refused.status_code == status
    assert refused.json()["error"]["code"] == code
    assert refused.json()["error"]["request_id"] == "mine"
    assert int(refused.headers["retry-after"]) >= 1
    assert set(kserve.json()) == {"error"}
    assert health.text == "Deployment unavailable"


def test_a_client_that_leaves_is_not_replaced_by_another_attempt() -> None:
    seen = threading.Event()
    calls = 0

    async def wait_for_leaving(scope: Scope, receive: Receive, send: Send) -> None:
        nonlocal calls
        calls += 1
        await read_body(receive)
        seen.set()
        while (await receive())["type"] != "http.disconnect":
            await asyncio.sleep(0.01)

    with behind_intake(wait_for_leaving) as client:
        with connect(client) as connection:
            connection.sendall(b"GET /v1/categories HTTP/1.1\r\nhost: o2n\r\n\r\n")
            assert seen.wait(10)
        time.sleep(1.0)
    assert calls == 1
