"""Every route with every kind of bad credential; revocation; a store that is asked rarely, whatever comes."""

import asyncio
import time
from collections.abc import Iterator

import pytest
from fastapi.routing import APIRoute
from starlette.testclient import TestClient

from o2n.errors import IntegrityError, StoreError, UnauthorizedError
from o2n.store import CategoryStore
from o2n.tokens import KEY, SCOPES, create_token, revoke_token
from serve import auth
from serve.auth import Doorkeeper
from serve.gateway import create_app
from serve.service import Service
from tests.serve.conftest import Counting, InProcess, Local

OPEN = {"/", "/page/{name}", "/healthz", "/readyz", "/openapi.json"}
SCOPE = {"/v1/categories/{name}/feedback": "feedback", "/v1/categories/{name}/rollback": "admin"}

# No code of the doorkeeper is asked what a route should need: this is the table.
ROUTES = sorted(
    (method, path)
    for path, operations in create_app(object(), object()).openapi()["paths"].items()
    for method in operations
    if path not in OPEN
)

BAD = {
    "none": {},
    "empty": {"Authorization": ""},
    "no token": {"Authorization": "Bearer"},
    "blank": {"Authorization": "Bearer  "},
    "unknown": {"Authorization": "Bearer o2n_" + "x" * 43},
    "another scheme": {"Authorization": "Basic bGluZTM6c2VjcmV0"},
    "no scheme": {"Authorization": "{secret}"},
    "another header": {"X-Api-Key": "{secret}"},
    "shortened": {"Authorization": "Bearer {shortened}"},
    "prolonged": {"Authorization": "Bearer {secret}x"},
    "in quotes": {"Authorization": 'Bearer "{secret}"'},
    "not ASCII": {"Authorization": b"Bearer \xff\xfe"},
    "a megabyte": {"Authorization": "Bearer " + "x" * (1 << 20)},
    "the stored hash": {"Authorization": "Bearer {hash}"},
}


def ask(local: Local, method: str, path: str, headers: dict) -> tuple[int, dict, dict[str, str]]:
    url = path.replace("{name}", "checks").replace("{version}", "f" * 16)
    answer = local.client.request(method, url, headers=headers)
    return answer.status_code, answer.json(), dict(answer.headers)


def test_every_route_is_open_or_needs_a_token() -> None:
    def paths(routes: list) -> Iterator[str]:
        for route in routes:
            if isinstance(route, APIRoute):
                yield route.path
            yield from paths(getattr(getattr(route, "original_router", None), "routes", []))

    known = set(paths(create_app(object(), object()).routes))
    assert known - OPEN == {path for _, path in ROUTES}


@pytest.mark.parametrize("kind", BAD)
@pytest.mark.parametrize(("method", "path"), ROUTES)
def test_a_bad_credential_gets_nowhere(local: Local, method: str, path: str, kind: str) -> None:
    secret = local.tokens[SCOPE.get(path, "score")]
    known = next(token for token in auth.read_tokens(local.store).tokens if token.name == "only-score")
    fill = {"secret": secret, "shortened": secret[:-1], "hash": known.sha256}
    headers = {name: value if isinstance(value, bytes) else value.format(**fill) for name, value in BAD[kind].items()}
    status, body, answered = ask(local, method, path, headers)
    assert status == 401, body
    assert answered["www-authenticate"].startswith("Bearer")
    message = body["error"] if path.startswith("/v2") else body["error"]["message"]
    assert "o2n tokens create" in message
    assert secret not in str(body)


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize(("method", "path"), ROUTES)
def test_a_token_opens_what_its_scope_says(local: Local, method: str, path: str, scope: str) -> None:
    needed = SCOPE.get(path, "score")
    status, body, answered = ask(local, method, path, local.allowed(scope))
    if scope == needed:
        assert status not in (401, 403), body
        return
    assert status == 403
    assert needed in (body["error"] if path.startswith("/v2") else body["error"]["message"])
    assert f'scope="{needed}"' in answered["www-authenticate"]


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/openapi.json", "/"])
def test_open_routes_need_none(local: Local, path: str) -> None:
    assert local.client.get(path).status_code == 200


def test_a_new_token_opens_at_once_and_a_revoked_one_closes_within_seconds(local: Local) -> None:
    secret = create_token(local.store, "short-lived", ["score"])
    headers = {"Authorization": f"Bearer {secret}"}
    time.sleep(2 * auth.RECHECK_SECONDS)
    assert local.client.get("/v1/categories", headers=headers).status_code == 200
    revoke_token(local.store, "short-lived")
    deadline = time.monotonic() + 10
    while local.client.get("/v1/categories", headers=headers).status_code == 200:
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_insecure_asks_nobody(published: CategoryStore) -> None:
    app = create_app(Service(published, InProcess(published)), Doorkeeper(published, insecure=True))
    client = TestClient(app, base_url="http://127.0.0.1:8000")
    assert client.get("/v1/categories").status_code == 200
    assert client.get("/v1/categories", headers={"Authorization": "Bearer whatever"}).status_code == 200


@pytest.mark.parametrize(
    ("host", "origin", "status"),
    [
        ("localhost:8000", "http://localhost:8000", 200),
        ("[::1]:8000", None, 200),
        ("evil.example:8000", None, 403),
        ("evil.example:8000", "http://evil.example:8000", 403),
        ("127.0.0.1.evil.example", None, 403),
        ("[", None, 403),
        ("127.0.0.1:8000", "https://evil.example", 403),
        ("127.0.0.1:8000", "http://127.0.0.1:9000", 403),
        ("127.0.0.1:8000", "null", 403),
    ],
)
def test_insecure_answers_no_page_from_elsewhere(
    published: CategoryStore, host: str, origin: str | None, status: int
) -> None:
    app = create_app(Service(published, InProcess(published)), Doorkeeper(published, insecure=True))
    headers = {"host": host} | ({"origin": origin} if origin else {})
    assert TestClient(app).get("/v1/categories", headers=headers).status_code == status


def test_tokens_open_under_any_name(local: Local) -> None:
    headers = local.allowed("score") | {"host": "o2n.plant.example", "origin": "https://elsewhere.example"}
    assert local.client.get("/v1/categories", headers=headers).status_code == 200


def test_a_thousand_bad_tokens_do_not_reach_the_store(tmp_path) -> None:
    store = Counting((tmp_path / "store").as_uri())
    secret = create_token(store, "line-3", ["score"])
    before = store.reads

    async def storm() -> tuple[int, float]:
        doorkeeper = Doorkeeper(store)
        begun = time.monotonic()
        refused = await asyncio.gather(
            *(doorkeeper.identify(f"o2n_{index}") for index in range(1000)), return_exceptions=True
        )
        assert (await doorkeeper.identify(secret)).name == "line-3"
        return sum(isinstance(error, UnauthorizedError) for error in refused), time.monotonic() - begun

    refused, seconds = asyncio.run(storm())
    assert refused == 1000
    assert store.reads - before <= 2 + seconds / auth.RECHECK_SECONDS


def test_known_tokens_outlive_a_store_that_cannot_be_read(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Counting((tmp_path / "store").as_uri())
    secret = create_token(store, "line-3", ["score"])
    monkeypatch.setattr(auth, "FRESH_SECONDS", 0.0)

    async def outage() -> None:
        doorkeeper = Doorkeeper(store)
        assert (await doorkeeper.identify(secret)).name == "line-3"
        store.broken = True
        assert (await doorkeeper.identify(secret)).name == "line-3"
        with pytest.raises(UnauthorizedError):
            await doorkeeper.identify("o2n_unknown")
        monkeypatch.setattr(auth, "STALE_SECONDS", 0.0)
        with pytest.raises(StoreError, match="no token is known"):
            await doorkeeper.identify(secret)
        store.broken = False
        assert (await doorkeeper.identify(secret)).name == "line-3"

    asyncio.run(outage())


def test_a_list_that_was_put_right_is_read_again(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = CategoryStore((tmp_path / "store").as_uri())
    secret = create_token(store, "line-3", ["score"])
    good, _ = store.objects.get(KEY)
    monkeypatch.setattr(auth, "FRESH_SECONDS", 0.0)

    async def repair() -> None:
        doorkeeper = Doorkeeper(store)
        store.objects.put(KEY, b'{"unknown": 1}')
        for _ in range(3):
            with pytest.raises(IntegrityError, match="altered"):
                await doorkeeper.identify(secret)
        store.objects.put(KEY, good)
        assert (await doorkeeper.identify(secret)).name == "line-3"

    asyncio.run(repair())


def test_known_tokens_do_not_queue_before_a_store_that_hangs(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Counting((tmp_path / "store").as_uri())
    secret = create_token(store, "line-3", ["score"])
    monkeypatch.setattr(auth, "FRESH_SECONDS", 0.0)
    monkeypatch.setattr(auth, "READ_SECONDS", 0.2)

    async def outage() -> None:
        doorkeeper = Doorkeeper(store)
        await doorkeeper.identify(secret)
        before = store.reads
        store.answers.clear()
        for _ in range(2):  # the second time without any wait, for the one read still hangs
            found = await asyncio.gather(*(doorkeeper.identify(secret) for _ in range(20)))
            assert {token.name for token in found} == {"line-3"}
        assert store.reads - before == 1
        store.answers.set()
        newer = create_token(store, "line-4", ["score"])
        assert (await doorkeeper.identify(newer)).name == "line-4"

    try:
        asyncio.run(outage())
    finally:
        store.answers.set()
