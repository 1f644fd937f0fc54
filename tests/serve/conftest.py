"""The application without Ray: real routes, real tokens, real scores, in this process."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

from o2n.category import VersionRef
from o2n.errors import StoreError
from o2n.features import features_to_compare
from o2n.feedback import accept_normal, withdraw_normal
from o2n.fusion import Score
from o2n.images import Picture
from o2n.profiles import Profile
from o2n.references import References
from o2n.store import CategoryStore
from o2n.tokens import SCOPES, create_token
from o2n.triplet import TripletScorer
from serve.auth import Doorkeeper
from serve.gateway import create_app
from serve.service import Service
from tests.helpers import QUICK


class InProcess:
    """What `serve.scoring.Branches` does with four deployments, done by the library's scorer in this process."""

    deadline_seconds = 60.0
    at_work = 0

    def __init__(self, store: CategoryStore, profile: Profile = QUICK) -> None:
        self._store, self._scorer = store, TripletScorer(profile, store)
        self._references = References(self._scorer.foundation, store)

    async def score(self, query: Picture, ref: VersionRef, deadline: float) -> Score:
        (score,) = await asyncio.to_thread(self._scorer.score, [query], [ref])
        return score

    async def reference(self, query: Picture, ref: VersionRef, deadline: float) -> Picture:
        features = features_to_compare(self._scorer.foundation, [query])
        return await asyncio.to_thread(self._references.nearest, features[0], ref)

    async def accept_normal(
        self, query: Picture, ref: VersionRef, score: Score, by: str, note: str | None, deadline: float
    ) -> VersionRef:
        foundation = self._scorer.foundation
        (features,) = np.asarray(features_to_compare(foundation, [query]).cpu())
        return await asyncio.to_thread(
            accept_normal, self._store, foundation, ref, query, features, score.s_p, score.s_text, by, note
        )

    async def withdraw_normal(
        self, query: Picture, ref: VersionRef, by: str, note: str | None, deadline: float
    ) -> VersionRef:
        return await asyncio.to_thread(withdraw_normal, self._store, ref, query, by, note)

    async def check_loads(self, ref: VersionRef) -> None:
        await asyncio.to_thread(self._scorer.load, ref)

    async def warm(self, ref: VersionRef) -> None:
        await self.check_loads(ref)

    @contextmanager
    def admitted(self, pictures: int) -> Iterator[None]:
        self.at_work += pictures
        try:
            yield
        finally:
            self.at_work -= pictures

    async def ready(self) -> dict[str, bool]:
        return {"encoder": True, "personal": True, "normal": True, "text": True}


class Counting(CategoryStore):
    """A real store that counts how often it is read, and can be made to fail or to hang."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.reads, self.broken, self._counting = 0, False, threading.Lock()
        self.answers = threading.Event()
        self.answers.set()
        get = self.objects.get

        def counted(key: str) -> tuple[bytes, str]:
            with self._counting:
                self.reads += 1
            self.answers.wait()
            if self.broken:
                raise StoreError(f"store {self.url} is broken")
            return get(key)

        self.objects.get = counted


def application(store: CategoryStore) -> FastAPI:
    """A new application: its locks belong to the event loop that it first runs in."""
    return create_app(Service(store, InProcess(store)), Doorkeeper(store))


@dataclass(frozen=True)
class Local:
    """The application, and a token for each scope."""

    client: TestClient
    store: CategoryStore
    tokens: dict[str, str]

    def allowed(self, scope: str) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.tokens[scope]}"}


@pytest.fixture(scope="session")
def local(published: CategoryStore) -> Iterator[Local]:
    """The application with `checks` and `stripes`, tokens asked for."""
    tokens = {scope: create_token(published, f"only-{scope}", [scope]) for scope in SCOPES}
    with TestClient(application(published), raise_server_exceptions=False) as client:
        yield Local(client, published, tokens)
