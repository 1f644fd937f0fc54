"""Who may do what: bearer tokens with scopes, checked before anything else of a request is looked at."""

import asyncio
import ipaddress
import logging
import time
from datetime import UTC, datetime
from typing import Annotated, Any
from urllib.parse import urlsplit

from fastapi import Request, Security
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer, SecurityScopes
from starlette.datastructures import Headers

from o2n.errors import ForbiddenError, StoreError, UnauthorizedError
from o2n.store import CategoryStore
from o2n.tokens import SCOPES, Scope, Token, TokenList, read_tokens
from serve.store_calls import store_call

# A revocation holds, everywhere, after this many seconds.
FRESH_SECONDS = 1.0
# A token that is not in the list may have been made a moment ago: then a list this old is not good enough.
RECHECK_SECONDS = 0.1
# While the store cannot be read, tokens known this recently go on working, and nobody waits long for it.
STALE_SECONDS = 60.0
READ_SECONDS = 2.0

ANYBODY = Token(name="anybody", sha256="0" * 64, scopes=frozenset(SCOPES), created=datetime.fromtimestamp(0, UTC))

logger = logging.getLogger("ray.serve")

bearer = HTTPBearer(auto_error=False, description="A token made by `o2n tokens create NAME --scope SCOPE`.")


class Doorkeeper:
    """The tokens of a store, as this replica remembers them."""

    def __init__(self, store: CategoryStore, *, insecure: bool = False) -> None:
        """Args: insecure: everybody on this machine may do everything."""
        self._store, self._insecure = store, insecure
        self._tokens = TokenList()
        self._asked_at = self._read_at = float("-inf")
        self._reading: asyncio.Task[None] | None = None

    def check_page(self, headers: Headers) -> None:
        """Where no token is asked for, a web page elsewhere could have its visitor's browser ask on its behalf.

        Raises:
            ForbiddenError: the request was addressed to a name that may be anybody's, or came from another page.
        """
        if not self._insecure:
            return
        host, origin = headers.get("host", ""), headers.get("origin")
        if not _is_loopback(host):
            raise ForbiddenError("without tokens the service answers on loopback alone: ask http://127.0.0.1 for it")
        if origin is not None and origin.partition("://")[2].lower() != host.lower():
            raise ForbiddenError("without tokens the service answers no other web page: use tokens, or its own page")

    async def identify(self, secret: str | None) -> Token:
        """The token that was shown.

        Raises:
            UnauthorizedError: none was, or nobody knows it.
            StoreError: the tokens cannot be read, and have not been for a while.
            IntegrityError: their list is none.
        """
        if self._insecure:
            return ANYBODY
        if secret is None:
            raise UnauthorizedError(
                "a token is needed: send 'Authorization: Bearer TOKEN', made by 'o2n tokens create NAME --scope SCOPE'"
            )
        for age in (FRESH_SECONDS, RECHECK_SECONDS):
            if token := (await self._known(age)).find(secret):
                return token
        raise UnauthorizedError("the token is unknown or was revoked: make one with 'o2n tokens create'")

    async def _known(self, age: float) -> TokenList:
        """The tokens as they were at most `age` seconds ago: however many ask, the store is read once in that time.

        Where it does not answer, only one read waits for it, and who asks goes on with the tokens known before.
        """
        now = time.monotonic()
        if self._read_at < now - age:
            await self._answer()
            if self._asked_at < now - age and (self._reading is None or self._reading.done()):
                self._asked_at = time.monotonic()
                self._reading = asyncio.create_task(self._read(self._asked_at))
                await self._answer()
            if self._reading is not None and self._reading.done():
                self._reading.result()  # a list that is bad is told to whoever asks, until a later read finds it good
        if self._read_at < now - STALE_SECONDS:
            raise StoreError(f"store {self._store.url} cannot be read, so no token is known: try again later")
        return self._tokens

    async def _answer(self) -> None:
        """Until the read under way is through, but no longer than `READ_SECONDS` after its beginning."""
        if self._reading is not None:
            left = self._asked_at + READ_SECONDS - time.monotonic()
            await asyncio.wait({self._reading}, timeout=max(0.0, left))

    async def _read(self, begun: float) -> None:
        try:
            self._tokens = await store_call(read_tokens, self._store)
            self._read_at = begun
        except StoreError as error:
            logger.warning("the tokens could not be read, those known are used: %r", error)


def _is_loopback(host: str) -> bool:
    """Whether a `host` header, its port left out, is this machine's own."""
    try:
        name = urlsplit(f"//{host}").hostname or ""
        return name == "localhost" or ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


async def authorize(
    request: Request,
    wanted: SecurityScopes,
    credentials: Annotated[HTTPAuthorizationCredentials | None, Security(bearer)],
) -> Token:
    """The token of whoever asks, if it has the scopes that the route wants; `needs` makes it a route's dependency.

    Raises:
        UnauthorizedError, StoreError, IntegrityError: see `Doorkeeper.identify`.
        ForbiddenError: the token lacks a scope; or see `Doorkeeper.check_page`.
    """
    doorkeeper: Doorkeeper = request.app.state.doorkeeper
    doorkeeper.check_page(request.headers)
    token = await doorkeeper.identify(credentials.credentials if credentials else None)
    for scope in wanted.scopes:
        if scope not in token.scopes:
            raise ForbiddenError(f"token {token.name} has no scope '{scope}': make one that has it", scope)
    return token


def needs(scope: Scope) -> Any:
    """What a route depends on that only tokens with `scope` may use; its value is the `Token`."""
    return Security(authorize, scopes=[scope])
