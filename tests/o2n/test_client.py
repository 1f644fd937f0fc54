"""The client, against services made up to be busy, broken, foreign or lost. `tests/serve` has it with the real one."""

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from infra.local.cluster import free_port
from o2n import client as module
from o2n.client import Client, ServiceError
from o2n.errors import (
    CategoryError,
    ForbiddenError,
    NotFoundError,
    O2NError,
    OverloadedError,
    PictureError,
    RequestError,
    StoreError,
    UnavailableError,
)
from tests.helpers import listening

SCORE = {
    "name": "a.png",
    "score": 1.5,
    "s_p": 0.5,
    "s_n": 0.5,
    "s_text": 1.0,
    "p_value": 0.2,
    "threshold": 2.0,
    "is_anomalous": False,
    "false_positive_rate": 0.2,
}
GOOD = (200, {}, {"category": "bolts", "version": "f" * 16, "pictures": [SCORE]})
LOST = None


def error(status: int, code: str, **headers: str) -> tuple[int, dict[str, str], Any]:
    return status, headers, {"error": {"code": code, "message": f"it is {code}", "request_id": "r"}}


class Scripted:
    """A service that gives the answers it was told to, in their order, and notes what it was asked."""

    def __init__(self, *answers: tuple[int, dict[str, str], Any] | None) -> None:
        self.answers = list(answers)
        self.asked: list[tuple[str, bytes, dict[bytes, bytes]]] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        body, more = b"", True
        while more:
            message = await receive()
            body, more = body + message.get("body", b""), message.get("more_body", False)
        query = f"?{scope['query_string'].decode()}" if scope["query_string"] else ""
        self.asked.append((f"{scope['method']} {scope['path']}{query}", body, dict(scope["headers"])))
        answer = self.answers.pop(0)
        if answer is LOST:  # begun and never ended: uvicorn closes the connection
            await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"100")]})
            await send({"type": "http.response.body", "body": b"{", "more_body": True})
            return
        status, headers, said = answer
        data = said if isinstance(said, bytes) else json.dumps(said).encode()
        raw = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
        await send({"type": "http.response.start", "status": status, "headers": raw})
        await send({"type": "http.response.body", "body": data})


@pytest.fixture(autouse=True)
def picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    path = tmp_path / "a.png"
    path.write_bytes(b"picture")
    monkeypatch.chdir(tmp_path)
    return path


def ask(*answers: tuple[int, dict[str, str], Any] | None) -> tuple[Scripted, Any]:
    """Score `a.png` with a service of these answers; the result or the error."""
    service = Scripted(*answers)
    with listening(service) as url, Client(url, "o2n_secret") as client:
        try:
            return service, client.score("bolts", ["a.png"])
        except O2NError as found:
            return service, found


def test_score_sends_files_and_the_token_and_parses_the_answer() -> None:
    service, (found,) = ask(GOOD)
    (asked, body, headers) = service.asked[0]
    assert asked == "POST /v1/categories/bolts/score"
    assert b'filename="a.png"' in body
    assert b"picture" in body
    assert headers[b"authorization"] == b"Bearer o2n_secret"
    assert (found.name, found.score, found.is_anomalous, found.version) == ("a.png", 1.5, False, "f" * 16)


def test_a_busy_service_is_asked_again_after_the_time_it_says() -> None:
    begun = time.monotonic()
    service, (found,) = ask(error(429, "overloaded", retry_after="1"), error(503, "store"), LOST, GOOD)
    assert time.monotonic() - begun >= 1.0
    assert found.score == 1.5
    assert len(service.asked) == 4
    assert len({body.partition(b"\r\n\r\n")[2].rpartition(b"\r\n--")[0] for _, body, _ in service.asked}) == 1


def test_patience_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ATTEMPTS", 2)
    service, found = ask(*[error(429, "overloaded", retry_after="1")] * 3)
    assert isinstance(found, OverloadedError)
    assert found.retry_after == 1.0
    assert len(service.asked) == 2


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        (400, "bad_picture", PictureError),
        (400, "bad_category", CategoryError),
        (403, "forbidden", ForbiddenError),
        (404, "not_found", NotFoundError),
        (422, "invalid_request", RequestError),
        (500, "internal", ServiceError),
        (418, "from the future", ServiceError),
    ],
)
def test_the_services_errors_are_the_librarys_with_its_own_words(status: int, code: str, kind: type) -> None:
    service, found = ask(error(status, code))
    assert type(found) is kind
    assert str(found) == f"it is {code}"
    assert len(service.asked) == 1


@pytest.mark.parametrize(
    "answer",
    [
        (200, {}, b"<html>"),
        (200, {}, []),
        (200, {}, {}),
        (200, {}, {"version": "x", "pictures": [{}]}),
        (404, {}, b"<html>not found</html>"),
        (400, {}, []),
    ],
)
def test_what_is_no_o2n_service_is_told_in_one_line(answer: tuple[int, dict[str, str], Any]) -> None:
    _, found = ask(answer)
    assert type(found) is ServiceError
    assert "\n" not in str(found)


def test_nobody_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ATTEMPTS", 2)
    with Client(f"http://127.0.0.1:{free_port()}") as client, pytest.raises(ServiceError, match="cannot be reached"):
        client.categories()


@pytest.mark.parametrize("url", ["", "o2n.plant:8000", "ftp://o2n", "http://", "/v1"])
def test_a_url_that_is_none(url: str) -> None:
    with pytest.raises(RequestError, match="refused"):
        Client(url)


def test_a_token_that_is_none() -> None:
    with pytest.raises(RequestError, match="token"):
        Client("http://o2n", "a\r\nX-Injected: 1")


@pytest.mark.parametrize("name", ["../tokens", "a/b", "a?b", "", "a b", ".."])
def test_a_hostile_name_is_not_sent(name: str) -> None:
    with Client("http://127.0.0.1:1") as client, pytest.raises(CategoryError):
        client.score(name, [b"x"])


def test_many_pictures_go_in_several_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "REQUEST_PICTURES", 2)
    monkeypatch.setattr(module, "REQUEST_BYTES", 100)
    service = Scripted(GOOD, GOOD, GOOD)
    with listening(service) as url, Client(url) as client:
        client.score("bolts", [b"x", b"x", b"x" * 90, b"x" * 90])
    assert [body.count(b"filename") for _, body, _ in service.asked] == [2, 1, 1]


def test_feedback_is_repeated_and_a_blind_rollback_is_not() -> None:
    version = (200, {}, {"category": "bolts", "version": "f" * 16})
    service = Scripted(LOST, version, LOST, version, LOST)
    with listening(service) as url, Client(url) as client:
        assert client.feedback("bolts", "a.png", "normal", "a shadow").version == "f" * 16
        assert client.rollback("bolts", "f" * 16).version == "f" * 16
        with pytest.raises(ServiceError):
            client.rollback("bolts")
    assert [asked for asked, _, _ in service.asked] == [
        *["POST /v1/categories/bolts/feedback"] * 2,
        *[f"POST /v1/categories/bolts/rollback?version={'f' * 16}"] * 2,
        "POST /v1/categories/bolts/rollback",
    ]
    assert b"a shadow" in service.asked[0][1]


def test_a_blind_rollback_that_may_have_been_done_is_not_done_again() -> None:
    """A second one would undo it."""
    failed = (503, {}, {"error": {"code": "unavailable", "message": "lost"}})
    busy = (429, {}, {"error": {"code": "overloaded", "message": "busy"}})
    service = Scripted(busy, failed)
    with listening(service) as url, Client(url) as client, pytest.raises(UnavailableError):
        client.rollback("bolts")
    assert len(service.asked) == 2


def test_a_store_that_is_down_is_a_store_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ATTEMPTS", 1)
    assert isinstance(ask(error(503, "store"))[1], StoreError)


def test_a_file_that_is_not_there() -> None:
    for picture in ("nowhere.png", Path("nowhere.png"), ["nowhere.png"]):
        with Client("http://127.0.0.1:1") as client, pytest.raises(PictureError, match=r"nowhere\.png: cannot be read"):
            client.score("bolts", picture)


def test_one_picture_is_scored_as_a_list_of_it() -> None:
    service = Scripted(GOOD, GOOD)
    with listening(service) as url, Client(url) as client:
        assert client.score("bolts", b"picture") == client.score("bolts", [b"picture"])


def test_a_name_that_is_no_text_travels_all_the_same(tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(b"caf\xe9.png")
    path.write_bytes(b"picture")
    service = Scripted(GOOD)
    with listening(service) as url, Client(url) as client:
        assert client.score("bolts", [path])[0].score == 1.5
    assert b'caf?.png"' in service.asked[0][1]
