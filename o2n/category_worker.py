"""One worker of the crew: a category's pictures -> what became of them, one category after another."""

import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from pydantic import BaseModel

from o2n.errors import O2NError
from o2n.images import Picture
from o2n.profiles import Profile
from o2n.sources import Source
from o2n.store import CategoryStore

Work = Literal["onboard", "preview", "measure"]


class Failure(BaseModel):
    """Why a category came to nothing: the code of an `O2NError`, or "worker"; and one line."""

    code: str
    message: str


class Outcome(BaseModel):
    """What one category came to. `seconds` are per stage, those of reading pictures and loading models among them."""

    category: str
    status: Literal["published", "unchanged", "failed", "new", "resumes", "measured"]
    version: str | None = None
    error: Failure | None = None
    warnings: list[str] = []
    resumed: list[str] = []
    missing: list[str] = []
    seconds: dict[str, float] = {}
    bytes: dict[str, int] = {}
    machine: str = ""
    lost_workers: int = 0


class CategoryWorker:
    """One process of the crew. What a user can mend comes back as an outcome; anything else ends the worker's life,
    because who knows what state a failed GPU leaves."""

    def __init__(self, store: CategoryStore) -> None:
        self._store = store
        self._at = ("", "starting", 0.0)
        self._loaded: set[Profile] = set()
        self._seconds: dict[str, float] = {}
        self._machine = ""

    def stage(self) -> tuple[str, str, float]:
        """The category that it is at, the stage, and the share of it that is done."""
        return self._at

    def run(self, work: Work, source: Source) -> Outcome:
        """What one category came to; a failure that a user can mend is an outcome, too."""
        self._seconds = {}
        self._at = (source.name, "starting", 0.0)
        try:
            outcome = {"onboard": self.onboard, "preview": self.preview, "measure": self.measure}[work](source)
        except O2NError as error:
            failure = Failure(code=error.code, message=str(error))
            outcome = Outcome(category=source.name, status="failed", error=failure)
        return outcome.model_copy(update={"seconds": self._seconds, "machine": self._machine})

    def onboard(self, source: Source) -> Outcome:
        files, references, more = self._read(source)
        from o2n.onboard import onboard

        done = onboard(
            source.name, references, source.profile, self._store, source.object_word, self._show, more, files
        )
        self._seconds |= done.seconds
        blobs = self._store.manifest(done.ref).blobs
        return Outcome(
            category=source.name,
            status="unchanged" if done.unchanged else "published",
            version=done.ref.version,
            warnings=list(done.warnings),
            resumed=list(done.resumed),
            bytes={name: blob.size for name, blob in blobs.items()},
        )

    def preview(self, source: Source) -> Outcome:
        _, references, more = self._read(source)
        from o2n.onboard import preview

        found = preview(source.name, references, source.profile, self._store, source.object_word, more)
        new = "adapter" in found.missing  # what comes before is its class's
        return Outcome(
            category=source.name,
            status="unchanged" if found.unchanged else "new" if new else "resumes",
            version=found.ref.version if found.ref else None,
            warnings=list(found.warnings),
            missing=list(found.missing),
        )

    def measure(self, source: Source) -> Outcome:
        _, references, more = self._read(source)
        from o2n.onboard import onboard

        with tempfile.TemporaryDirectory() as folder:
            scratch = CategoryStore((Path(folder) / "store").as_uri())
            done = onboard(
                source.name, references, source.profile, scratch, source.object_word, self._show, more_normal=more
            )
        self._seconds |= done.seconds
        return Outcome(category=source.name, status="measured")

    def _read(self, source: Source) -> tuple[list[str], list[Picture], list[Picture]]:
        """The references' files, the references and the further normal pictures; the models are loaded first, where
        they are not yet."""
        if source.profile not in self._loaded:
            with self._timed("loading"):
                from o2n.device import describe_machine
                from o2n.foundation import load_foundation

                self._machine = describe_machine(load_foundation(source.profile).diffusion.device)
            self._loaded.add(source.profile)
        from o2n.onboard import read_more_normal, read_references, smallest_side

        with self._timed("reading"):
            found = read_references(source.references)
            files, references = list(found), list(found.values())
            resolution = source.profile.resolution(smallest_side(references))
            more = read_more_normal(source.more_normal, resolution) if source.more_normal else []
        return files, references, more

    def _show(self, stage: str, share: float) -> None:
        self._at = (self._at[0], stage, share)

    @contextmanager
    def _timed(self, stage: str) -> Iterator[None]:
        self._show(stage, 0.0)
        begun = time.perf_counter()
        try:
            yield
        finally:
            self._seconds[stage] = round(time.perf_counter() - begun, 3)
