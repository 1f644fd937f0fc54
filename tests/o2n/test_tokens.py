"""Tokens are shown once, kept hashed, changed by several at once, and gone when revoked."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from o2n.errors import ConflictError, IntegrityError, NotFoundError, O2NError
from o2n.store import CategoryStore
from o2n.tokens import KEY, create_token, read_tokens, revoke_token


def test_a_token_is_known_by_its_secret_until_it_is_revoked(store_url: str) -> None:
    store = CategoryStore(store_url)
    assert read_tokens(store).tokens == ()
    secret = create_token(store, "line-3", ["score"])
    other = create_token(store, "inspector@plant", ["score", "feedback"])
    found = read_tokens(CategoryStore(store_url)).find(secret)
    assert found is not None
    assert (found.name, found.scopes) == ("line-3", {"score"})
    for wrong in ("", secret[:-1], secret + "x", secret.upper(), found.sha256, "ünknown"):
        assert read_tokens(store).find(wrong) is None

    revoke_token(store, "line-3")
    assert read_tokens(store).find(secret) is None
    assert read_tokens(store).find(other) is not None
    with pytest.raises(NotFoundError, match="line-3"):
        revoke_token(store, "line-3")


def test_the_secret_is_not_in_the_store(tmp_path) -> None:
    store = CategoryStore((tmp_path / "store").as_uri())
    secret = create_token(store, "line-3", ["score"])
    stored = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert b"line-3" in stored
    assert secret.encode() not in stored
    assert secret.removeprefix("o2n_").encode() not in stored


def test_secrets_are_long_and_differ(tmp_path) -> None:
    store = CategoryStore((tmp_path / "store").as_uri())
    secrets = {create_token(store, f"t{index}", ["score"]) for index in range(20)}
    assert len(secrets) == 20
    assert min(map(len, secrets)) >= 43  # 256 bits in base64


def test_names_are_unique_and_checked(tmp_path) -> None:
    store = CategoryStore((tmp_path / "store").as_uri())
    create_token(store, "line-3", ["score"])
    with pytest.raises(ConflictError, match="line-3 exists"):
        create_token(store, "line-3", ["admin"])
    for name in ("", "a b", "a/b", "../x", "-a", "ü", "x" * 65, "a\n"):
        with pytest.raises(O2NError, match="refused"):
            create_token(store, name, ["score"])
    assert [token.name for token in read_tokens(store).tokens] == ["line-3"]


def test_several_at_once_lose_nothing(store_url: str) -> None:
    def create(index: int) -> str:
        return create_token(CategoryStore(store_url), f"t{index}", ["score"])

    with ThreadPoolExecutor(4) as threads:
        secrets = list(threads.map(create, range(8)))
    tokens = read_tokens(CategoryStore(store_url))
    assert {tokens.find(secret).name for secret in secrets} == {f"t{index}" for index in range(8)}


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b'{"tokens": [{"name": "x"}]}', b'{"tokens": [], "more": 1}'])
def test_an_altered_list_lets_nobody_in(tmp_path, data: bytes) -> None:
    store = CategoryStore((tmp_path / "store").as_uri())
    store.objects.put(KEY, data)
    with pytest.raises(IntegrityError, match="altered"):
        read_tokens(store)
