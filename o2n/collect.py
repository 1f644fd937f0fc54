"""What no category can serve or needs any more -> deleted. Runs beside publishers: what is young stays, whoever it is
for."""

import functools
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta

from pydantic import ValidationError

from o2n.category import BlobRef, Feedback, VersionRef, is_name
from o2n.errors import CategoryError, IntegrityError, NotFoundError
from o2n.objects import Entry
from o2n.store import RENEW_AGE, CategoryStore

# A publisher may take some hours between what it writes or recalls first and the move of the pointer.
LEAST_AGE = 4 * RENEW_AGE


@dataclass(frozen=True)
class Collected:
    """What was deleted, or would be: versions, verdicts on pictures of deleted categories, remembered stages and blobs,
    and the bytes that all of it took."""

    versions: int
    verdicts: int
    stages: int
    blobs: int
    bytes: int


def collect(
    store: CategoryStore,
    older_than: timedelta,
    *,
    keep: int | None = None,
    dry_run: bool = False,
    now: datetime | None = None,
    on_progress: Callable[[str], None] = lambda what: None,
) -> Collected:
    """Delete versions that no pointer names and blobs that no version needs.

    What onboarding made stays for as long as a version that came of it by feedback: it is what withdrawals go back to.

    Versions go before their blobs, so that whenever this is stopped, every version that is left is whole.

    Args:
        older_than: what was written since then stays, for somebody may be about to publish it; at least `LEAST_AGE`.
        keep: first forget all but so many of the versions that each category served before; by default none of them.
        dry_run: delete and forget nothing.
        now: by default the time by the store's own clock.

    Raises:
        IntegrityError: a version cannot be read, so that nobody knows what it needs; nothing was deleted or forgotten.
        CategoryError: `older_than` is too short, or a folder in the store is no category's; the same.
        StoreError: the store cannot be used.
    """
    if older_than < LEAST_AGE:
        raise CategoryError(f"{older_than} is too short: a publisher may take a while, so give {LEAST_AGE} or more")
    limit = (now or _now(store)) - older_than
    on_progress("looking at versions")
    versions, verdicts, needed = _dead(store, keep, limit)
    if keep is not None and not dry_run:
        for name in store.categories():
            with suppress(NotFoundError):  # deleted since
                store.trim(name, keep)
        # Until then somebody may have gone back to one of them; from now on nobody can.
        versions, verdicts, needed = _dead(store, None, limit)
    on_progress("looking at blobs")
    blobs = _old([blob for blob in store.objects.entries("blobs/") if _name(blob) not in needed], limit)
    lost = {_name(blob) for blob in blobs}
    stages = [stage for stage in _old(store.objects.entries("stages/"), limit) if _made(store, stage) in (None, *lost)]
    gone = [*versions, *verdicts, *stages, *blobs]
    on_progress(f"deleting {len(gone)} objects")
    if not dry_run:
        store.objects.sweep(limit)
    for entry in gone if not dry_run else ():
        with suppress(NotFoundError):
            if store.objects.entry(entry.key).modified < limit:  # and was not written anew meanwhile
                store.objects.delete(entry.key)
    return Collected(len(versions), len(verdicts), len(stages), len(blobs), sum(entry.size for entry in gone))


def _now(store: CategoryStore) -> datetime:
    """The time by the clock that objects' own times come from."""
    probe = f"probe-{uuid.uuid4().hex}"
    store.objects.put(probe, b"")
    try:
        return store.objects.entry(probe).modified
    finally:
        store.objects.delete(probe)


def _dead(store: CategoryStore, keep: int | None, limit: datetime) -> tuple[list[Entry], list[Entry], set[str]]:
    """The versions and the verdicts to delete, and the digests of the blobs that all others need.

    Args: keep: as if each category had forgotten all but so many.
    """

    @functools.cache  # read once: of thousands of categories that takes minutes
    def needs(ref: VersionRef) -> tuple[str | None, frozenset[str]]:
        """The version that onboarding made, if it came of it by feedback, and the digests of its blobs."""
        manifest = store.manifest(ref)
        return manifest.onboarded, frozenset(blob.sha256 for blob in manifest.blobs.values())

    served = {ref for name in store.categories() for ref in _pointed(store, name, keep)}
    for ref in list(served):
        with suppress(NotFoundError):  # it is gone by now, with all that it needed
            if onboarded := needs(ref)[0]:
                served.add(VersionRef(ref.category, onboarded))
    names = {ref.category for ref in served}
    entries = store.objects.entries("categories/")
    for entry in entries:
        if _kind(entry) and not is_name(folder := entry.key.split("/")[1]):
            raise CategoryError(
                f"categories/{folder} in store {store.url} is no category's folder, and nobody knows which blobs it "
                "needs: move it out of the store"
            )
    versions = [entry for entry in entries if _kind(entry) == "versions" and _ref(entry) not in served]
    verdicts = [entry for entry in entries if _kind(entry) == "feedback" and _ref(entry).category not in names]
    versions, verdicts = _old(versions, limit), _old(verdicts, limit)
    dead = {entry.key for entry in (*versions, *verdicts)}
    needed: set[str] = set()
    for entry in entries:
        if entry.key in dead:
            continue
        with suppress(NotFoundError):
            if _kind(entry) == "versions":
                needed |= needs(_ref(entry))[1]
            elif _kind(entry) == "feedback" and (blob := _judged(store, entry)):
                needed.add(blob.sha256)
    return versions, verdicts, needed


def _pointed(store: CategoryStore, name: str, keep: int | None) -> Iterator[VersionRef]:
    """The versions that a category serves or can go back to, once it has forgotten the others."""
    with suppress(NotFoundError):  # deleted since
        pointer = store.pointer(name)
        history = pointer.history if keep is None else pointer.history[max(0, len(pointer.history) - keep) :]
        yield from (VersionRef(name, version) for version in (pointer.version, *history))


def _judged(store: CategoryStore, entry: Entry) -> BlobRef | None:
    """The picture that a verdict is kept with."""
    try:
        return Feedback.model_validate_json(store.objects.get(entry.key)[0]).blob
    except ValidationError:
        raise IntegrityError(f"{entry.key} in store {store.url} was altered: delete that file") from None


def _made(store: CategoryStore, stage: Entry) -> str | None:
    """The digest of the blob that a stage has made, if it can be told."""
    try:
        return BlobRef.model_validate_json(store.objects.get(stage.key)[0]).sha256
    except (NotFoundError, ValidationError):
        return None


def _old(entries: list[Entry], limit: datetime) -> list[Entry]:
    return [entry for entry in entries if entry.modified < limit]


def _kind(entry: Entry) -> str:
    """Of categories/NAME/KIND/ID.json; "" of the pointer."""
    parts = entry.key.split("/")
    return parts[2] if len(parts) == 4 else ""


def _ref(entry: Entry) -> VersionRef:
    _, category, _, file = entry.key.split("/")
    return VersionRef(category, file.removesuffix(".json"))


def _name(entry: Entry) -> str:
    return entry.key.rpartition("/")[2]
