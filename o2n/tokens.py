"""Bearer tokens of the HTTP service: who may score, give feedback, administer.

All of a store's tokens are one small object beside its categories, changed by compare-and-swap like a pointer. Every
replica on any node reads it with one request, however many unknown tokens it is shown, and a token that is revoked is
gone for all of them at their next look.

A token is 256 random bits, so what is stored is its plain SHA-256: there is no dictionary to try it against, which a
salt or a slow hash would be for.
"""

import hashlib
import hmac
import re
import secrets
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Annotated, Literal, get_args

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from o2n.category import Digest
from o2n.errors import ConflictError, IntegrityError, NotFoundError, O2NError, cause_of
from o2n.store import SWAP_ATTEMPTS, CategoryStore, pause

Scope = Literal["score", "feedback", "admin"]
SCOPES: tuple[Scope, ...] = get_args(Scope)

KEY = "tokens/tokens.json"
# So that a token that was committed or logged by mistake is found by those who look for such.
PREFIX = "o2n_"

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")


class Token(BaseModel):
    """What is kept of a token: enough to know it again, not to use it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Annotated[str, Field(pattern=f"^{_NAME.pattern}$")]
    sha256: Digest
    scopes: frozenset[Scope] = Field(min_length=1)
    created: AwareDatetime


class TokenList(BaseModel):
    """All tokens of a store."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    tokens: tuple[Token, ...] = ()

    def find(self, secret: str) -> Token | None:
        """The token whose secret this is."""
        digest = hashlib.sha256(secret.encode()).hexdigest()
        return next((token for token in self.tokens if hmac.compare_digest(token.sha256, digest)), None)


def read_tokens(store: CategoryStore) -> TokenList:
    """The tokens of a store; none is no error.

    Raises:
        IntegrityError: the list was altered by hand, or written by another release.
    """
    return _read(store)[0]


def create_token(store: CategoryStore, name: str, scopes: list[Scope]) -> str:
    """Make a token and return its secret, which is kept nowhere.

    Args: name: who it is for, 1-64 ASCII letters, digits and `._@-`; it signs the feedback given with it.

    Raises:
        O2NError: a name that cannot be used.
        ConflictError: a token of this name exists.
    """
    if not _NAME.fullmatch(name):
        raise O2NError(f"token name {name[:64]!r} is refused: use 1-64 ASCII letters, digits and '._@-'")
    secret = PREFIX + secrets.token_urlsafe(32)
    token = Token(
        name=name,
        sha256=hashlib.sha256(secret.encode()).hexdigest(),
        scopes=frozenset(scopes),
        created=datetime.now(UTC),
    )

    def added(tokens: tuple[Token, ...]) -> tuple[Token, ...]:
        if any(other.name == name for other in tokens):
            raise ConflictError(f"token {name} exists in store {store.url}: revoke it first, or choose another name")
        return (*tokens, token)

    _change(store, added)
    return secret


def revoke_token(store: CategoryStore, name: str) -> None:
    """Make a token unknown.

    Raises:
        NotFoundError: there is no token of this name.
    """

    def without(tokens: tuple[Token, ...]) -> tuple[Token, ...]:
        left = tuple(token for token in tokens if token.name != name)
        if left == tokens:
            raise NotFoundError(f"there is no token {name[:64]!r} in store {store.url}: see 'o2n tokens list'")
        return left

    _change(store, without)


def _change(store: CategoryStore, change: Callable[[tuple[Token, ...]], tuple[Token, ...]]) -> None:
    for attempt in range(SWAP_ATTEMPTS):
        found, etag = _read(store)
        changed = TokenList(tokens=change(found.tokens))
        try:
            store.objects.put_if(KEY, changed.model_dump_json(indent=1).encode(), etag)
        except ConflictError:
            pause(attempt)
            continue
        return
    raise ConflictError(f"the tokens in store {store.url} are changed by others all the time: try again later")


def _read(store: CategoryStore) -> tuple[TokenList, str | None]:
    try:
        data, etag = store.objects.get(KEY)
    except NotFoundError:
        return TokenList(), None
    try:
        return TokenList.model_validate_json(data), etag
    except ValidationError as error:
        raise IntegrityError(
            f"{KEY} in store {store.url} was altered, or written by another release of O2N "
            f"({cause_of(error)}): delete it and make the tokens anew"
        ) from None
