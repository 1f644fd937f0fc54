"""Stages of a run that may be killed at any moment: each is made once of the same inputs, and remembered.

Knows nothing of what they make.
"""

import hashlib
import time
from collections.abc import Callable

from o2n.category import BlobRef
from o2n.errors import NotFoundError
from o2n.store import CategoryStore

Progress = Callable[[str, float], None]  # a stage, and the share of it that is done


class NotMadeError(Exception):
    """A stage that only a real run makes."""


class Stages:
    """Runs a stage, or recalls what an earlier run made of the same inputs; `recall_only` makes and writes nothing.

    resumed: the stages that were recalled. seconds: of every stage.
    """

    def __init__(self, store: CategoryStore, on_progress: Progress, recall_only: bool = False) -> None:
        self._store, self._recall_only = store, recall_only
        self.on_progress = on_progress
        self._unfinished = False
        self.resumed: list[str] = []
        self.seconds: dict[str, float] = {}

    def keep(self, data: bytes) -> BlobRef:
        """Store what no stage has made; with `recall_only` only name it."""
        return BlobRef.of(data) if self._recall_only else self._store.put_blob(data)

    def partial(self, stage: str, inputs: list[str]) -> bytes | None:
        """What a run that was stopped within this stage has kept of it."""
        try:
            state = self._store.objects.get(_partial_key(stage, inputs))[0]
        except NotFoundError:
            return None
        self._unfinished = True
        return state

    def keep_partial(self, stage: str, inputs: list[str], state: bytes) -> None:
        """Keep what this stage has come to, in the place of what was kept before, until it is done."""
        self._store.objects.put(_partial_key(stage, inputs), state)
        self._unfinished = True

    def run(self, stage: str, inputs: list[str], make: Callable[[], bytes]) -> BlobRef:
        """The stage's blob. Args: inputs: digests and settings of all that decides it.

        Raises:
            NotMadeError: with `recall_only`, where no run has made it. Else what `make` raises.
        """
        key = _key(stage, inputs)
        begun = time.perf_counter()
        self.on_progress(stage, 0.0)
        if blob := self._store.recall(key, renew=not self._recall_only):
            self.resumed.append(stage)
        elif self._recall_only:
            raise NotMadeError
        else:
            blob = self._store.put_blob(make())
            self._store.remember(key, blob)
            if self._unfinished:
                self._store.objects.delete(_partial_key(stage, inputs))
                self._unfinished = False
        self.on_progress(stage, 1.0)
        self.seconds[stage] = round(time.perf_counter() - begun, 3)
        return blob


def _key(stage: str, inputs: list[str]) -> str:
    return hashlib.sha256("\n".join([stage, *inputs]).encode()).hexdigest()


def _partial_key(stage: str, inputs: list[str]) -> str:
    return f"stages/{_key(stage, inputs)}.partial"
