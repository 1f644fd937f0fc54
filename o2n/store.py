"""Where category versions live: blobs, manifests and pointers over any `Objects`.

    blobs/sha256/<hex>                       immutable, named by content
    categories/<name>/versions/<id>.json     immutable manifest
    categories/<name>/current.json           the pointer, changed only by compare-and-swap
    categories/<name>/feedback/<id>.json     immutable: what was said to be anomalous
    stages/<key>.json                        which blob an onboarding stage made of which inputs
    stages/<key>.partial                     what a stage that was stopped has come to
    tokens/tokens.json                       who may ask the service (`tokens.py`)

A version is visible once its pointer names it, and the pointer moves last: whoever is killed before leaves blobs that
nobody sees.
"""

import contextlib
import random
import re
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from o2n.calibration import Calibration
from o2n.category import BlobRef, Feedback, Manifest, Pointer, VersionRef, check_name, is_name
from o2n.errors import ConflictError, IntegrityError, NotFoundError, O2NError, cause_of
from o2n.objects import open_objects

SWAP_ATTEMPTS = 100
# What is recalled for a new version is written anew if it is this old: a collection deletes what is old and unneeded.
RENEW_AGE = timedelta(hours=6)

Stored = TypeVar("Stored", bound=BaseModel)


class CategoryStore:
    """The categories at one URL. Pickles as that URL; every method may raise StoreError (see `Objects`)."""

    def __init__(self, url: str) -> None:
        """Args: url: file:///PATH, a plain path, or s3://BUCKET/PREFIX; nothing is touched yet."""
        self.objects = open_objects(url)
        self.url = self.objects.url

    def __reduce__(self) -> tuple[type["CategoryStore"], tuple[str]]:
        return CategoryStore, (self.url,)

    def put_blob(self, data: bytes) -> BlobRef:
        """Keep `data` under its digest."""
        blob = BlobRef.of(data)
        self.objects.put(_blob_key(blob), data)
        return blob

    def get_blob(self, blob: BlobRef) -> bytes:
        """The bytes of `blob`, verified against its digest before anybody parses them.

        Raises:
            NotFoundError: there is no such blob.
            IntegrityError: the bytes are not the ones that were stored.
        """
        data, _ = self.objects.get(_blob_key(blob))
        if BlobRef.of(data) != blob:
            raise IntegrityError(
                f"blob {blob.sha256} in store {self.url} was altered: onboard its category again, "
                "or roll back to another version"
            )
        return data

    def remember(self, stage_key: str, blob: BlobRef) -> None:
        """Note that the stage with these inputs made `blob`."""
        self.objects.put(_stage_key(stage_key), blob.model_dump_json().encode())

    def recall(self, stage_key: str, *, renew: bool = True) -> BlobRef | None:
        """The blob that the stage with these inputs made, if it is still there and whole.

        Args: renew: write it anew if it is old, because it is to go into a version.
        """
        try:
            blob = self._read(_stage_key(stage_key), BlobRef, "onboard again")[0]
            data = self.get_blob(blob)
            age = datetime.now(UTC) - self.objects.entry(_blob_key(blob)).modified
        except (NotFoundError, IntegrityError):
            return None  # it will be made again
        if renew and age > RENEW_AGE:
            self.put_blob(data)
        return blob

    def publish(self, manifest: Manifest, after: str | None = None) -> VersionRef:
        """Make a version exist, then let it serve. Publishing what serves already changes nothing.

        Of several publishers at once every version exists and enters the history; the last to move the pointer serves.

        Args: after: the version that has to serve until then; by default any, or none.

        Raises:
            IntegrityError: a blob of the manifest is not in the store.
            ConflictError: `after` does not serve, or the pointer could not be moved in `SWAP_ATTEMPTS` attempts.
            NotFoundError: `after` is given and there is no such category.
        """

        def next_version(pointer: Pointer | None) -> str:
            if after is not None and pointer is None:
                raise self._no_category(manifest.category)
            if pointer is not None and after not in (None, pointer.version) and pointer.version != manifest.version:
                raise ConflictError(
                    f"category {manifest.category} serves version {pointer.version} by now, not {after}: try again"
                )
            return manifest.version

        self._check_blobs(manifest)
        key, data = _manifest_key(manifest.ref), _json(manifest)
        try:
            self.objects.put_if(key, data, None)
        except ConflictError:
            # The same version from an earlier run, with its own date; a damaged one is replaced.
            try:
                self.manifest(manifest.ref)
                if datetime.now(UTC) - self.objects.entry(key).modified > RENEW_AGE:
                    self.objects.put(key, self.objects.get(key)[0])
            except (IntegrityError, NotFoundError):
                self.objects.put(key, data)
        self._move(manifest.category, next_version)
        return manifest.ref

    def manifest(self, ref: VersionRef) -> Manifest:
        """The manifest of a version, checked to be what its name says.

        Raises:
            CategoryError: `ref` has a name that no category can have.
            NotFoundError: there is no such version.
            IntegrityError: it was altered, or written by another release of O2N.
        """
        if not re.fullmatch(r"[0-9a-f]{16}", ref.version):
            raise NotFoundError(
                f"version {ref.version!r} is no version: they are 16 hex digits, see 'o2n categories show'"
            )
        try:
            manifest, _ = self._read(_manifest_key(ref), Manifest, "onboard the category again")
        except NotFoundError:
            raise NotFoundError(
                f"category {ref.category} has no version {ref.version}: see 'o2n categories show {ref.category}'"
            ) from None
        if manifest.ref != ref:
            raise IntegrityError(
                f"the manifest of {ref.category} version {ref.version} was altered, or written by another release of "
                "O2N: onboard the category again, or roll back to another version"
            )
        return manifest

    def calibration(self, ref: VersionRef) -> Calibration:
        """The scores of normal pictures that a version's decisions are made by.

        Raises:
            CategoryError, NotFoundError: see `manifest`.
            IntegrityError: the version or its calibration is not whole, or was written by another release of O2N.
        """
        what, remedy = f"the calibration of {ref.category} version {ref.version}", "onboard the category again"
        blob = self.manifest(ref).blobs.get("calibration")
        if blob is None:
            raise IntegrityError(f"{what} is missing: another release of O2N wrote it; {remedy}")
        try:
            data = self.get_blob(blob)
        except NotFoundError:
            raise IntegrityError(f"{what} is gone from store {self.url}: {remedy}") from None
        return self._parse(data, Calibration, what, remedy)

    def pointer(self, name: str) -> Pointer:
        """Which version of a category serves, and which did before.

        Raises:
            CategoryError: a name that no category can have.
            NotFoundError: there is no such category.
        """
        return self._pointer(name)[0]

    def current(self, name: str) -> VersionRef:
        """The version of a category that serves now; raises as `pointer`."""
        return VersionRef(name, self.pointer(name).version)

    def categories(self) -> list[str]:
        """The names of all categories, sorted; folders of other names, such as somebody's copies, are none."""
        keys = [key.split("/") for key in self.objects.keys("categories/")]
        return sorted(key[1] for key in keys if len(key) == 3 and key[2] == "current.json" and is_name(key[1]))

    def versions(self, name: str, unread: list[O2NError] | None = None) -> list[Manifest]:
        """Every version that serves or did, newest first; raises as `pointer` and `manifest`.

        Args: unread: takes what is wrong with versions that cannot be read, in the place of raising it.
        """
        pointer = self.pointer(name)
        manifests = []
        for version in (*pointer.history, pointer.version):
            try:
                manifests.append(self.manifest(VersionRef(name, version)))
            except (IntegrityError, NotFoundError) as error:
                if unread is None:
                    raise
                unread.append(error)
        return sorted(manifests, key=lambda manifest: manifest.created, reverse=True)

    def rollback(self, name: str, version: str | None = None) -> VersionRef:
        """Let an earlier version serve again: `version`, or the one that served before; done twice, that undoes itself.

        Raises:
            NotFoundError: no such category, no such version in its history, or no earlier one.
            IntegrityError: that version is not whole.
        """

        def earlier(pointer: Pointer | None) -> str:
            if pointer is None:
                raise self._no_category(name)
            if version is not None and version not in (*pointer.history, pointer.version):
                raise NotFoundError(
                    f"category {name} never served version {version!r}: see 'o2n categories show {name}'"
                )
            if version is None and not pointer.history:
                raise NotFoundError(f"category {name} has no earlier version than {pointer.version}: onboard another")
            chosen = version or pointer.history[-1]
            self.check_whole(self.manifest(VersionRef(name, chosen)))
            return chosen

        return VersionRef(name, self._move(name, earlier))

    def keep_feedback(self, name: str, feedback: Feedback) -> None:
        """Keep a verdict that makes no version; once, however often and whenever it is given."""
        said = BlobRef.of(feedback.model_dump_json(exclude={"at"}).encode())
        with contextlib.suppress(ConflictError):
            key = f"categories/{check_name(name)}/feedback/{said.sha256[:16]}.json"
            self.objects.put_if(key, _json(feedback), None)

    def feedback(self, name: str) -> list[Feedback]:
        """Every verdict on pictures of a category, oldest first: those that made its versions, which were rolled back
        too, and the anomalous ones; raises as `pointer` and `manifest`."""
        pointer = self.pointer(name)
        made: set[Feedback] = set()
        parents: set[str | None] = set()
        for version in (pointer.version, *reversed(pointer.history)):
            if version not in parents:  # else what was said of it has been read already, in the version made of it
                manifest = self.manifest(VersionRef(name, version))
                made.update(manifest.feedback)
                parents.add(manifest.parent)
        anomalous = {
            self._read(key, Feedback, "delete that file")[0]
            for key in self.objects.keys(f"categories/{check_name(name)}/feedback/")
        }
        return sorted(made | anomalous, key=lambda feedback: (feedback.at, feedback.picture))

    def trim(self, name: str, keep: int) -> None:
        """Forget all but the last `keep` versions that a category served before this one: there is no way back to them.

        Raises as `pointer`, and ConflictError as `publish`.
        """

        def trimmed(pointer: Pointer | None) -> Pointer:
            if pointer is None:
                raise self._no_category(name)
            return Pointer(version=pointer.version, history=pointer.history[max(0, len(pointer.history) - keep) :])

        self._swap(name, trimmed)

    def delete(self, name: str) -> None:
        """Take a category's pointer away, and with it the category from sight.

        Manifests and blobs stay until they are collected: other categories share blobs, and a publisher may be at work
        on this one.

        Raises:
            NotFoundError: there is no such category.
        """
        try:
            self.objects.entry(_pointer_key(name))
        except NotFoundError:
            raise self._no_category(name) from None
        self.objects.delete(_pointer_key(name))

    def _move(self, name: str, choose: Callable[[Pointer | None], str]) -> str:
        """Point category `name` at the version that `choose` picks in view of the pointer."""

        def moved(pointer: Pointer | None) -> Pointer:
            version = choose(pointer)
            if pointer is None:
                return Pointer(version=version)
            if pointer.version == version:
                return pointer
            history = [*(old for old in pointer.history if old != version), pointer.version]
            return Pointer(version=version, history=history)

        return self._swap(name, moved).version

    def _swap(self, name: str, change: Callable[[Pointer | None], Pointer]) -> Pointer:
        """Replace the pointer of category `name` by what `change` makes of it, by compare-and-swap."""
        for attempt in range(SWAP_ATTEMPTS):
            try:
                pointer, etag = self._pointer(name)
            except NotFoundError:
                pointer, etag = None, None
            changed = change(pointer)
            if changed == pointer:
                return changed
            try:
                self.objects.put_if(_pointer_key(name), _json(changed), etag)
            except ConflictError:
                pause(attempt)
                continue
            return changed
        raise ConflictError(f"category {name} in store {self.url} is changed by others all the time: try again later")

    def _pointer(self, name: str) -> tuple[Pointer, str]:
        try:
            return self._read(_pointer_key(name), Pointer, f"'o2n categories delete {name}', then onboard it again")
        except NotFoundError:
            raise self._no_category(name) from None

    def _no_category(self, name: str) -> NotFoundError:
        return NotFoundError(f"category {name} is not in store {self.url}: see 'o2n categories list', or onboard it")

    def check_whole(self, manifest: Manifest) -> None:
        """Read all that a version is made of.

        Raises:
            IntegrityError: something of it is gone or was altered.
        """
        self._check_blobs(manifest)
        for blob in manifest.blobs.values():
            self.get_blob(blob)

    def _check_blobs(self, manifest: Manifest) -> None:
        for name, blob in manifest.blobs.items():
            try:
                size = self.objects.entry(_blob_key(blob)).size
            except NotFoundError:
                size = None
            if size != blob.size:
                raise IntegrityError(
                    f"{manifest.category} version {manifest.version}: its {name} are not whole in store {self.url}: "
                    "onboard again"
                )

    def _read(self, key: str, kind: type[Stored], remedy: str) -> tuple[Stored, str]:
        data, etag = self.objects.get(key)
        return self._parse(data, kind, key, remedy), etag

    def _parse(self, data: bytes, kind: type[Stored], what: str, remedy: str) -> Stored:
        try:
            return kind.model_validate_json(data)
        except ValidationError as error:
            raise IntegrityError(
                f"{what} in store {self.url} was altered, or written by another release of O2N "
                f"({cause_of(error)}): {remedy}"
            ) from None


def pause(attempt: int) -> None:
    """Wait before a compare-and-swap that was lost is tried again."""
    # Jitter, or publishers that collided once would collide for ever.
    time.sleep(random.uniform(0, min(0.5, 0.01 * 2**attempt)))


def _blob_key(blob: BlobRef) -> str:
    return f"blobs/sha256/{blob.sha256}"


def _stage_key(key: str) -> str:
    return f"stages/{key}.json"


def _manifest_key(ref: VersionRef) -> str:
    return f"categories/{check_name(ref.category)}/versions/{ref.version}.json"


def _pointer_key(name: str) -> str:
    return f"categories/{check_name(name)}/current.json"


def _json(value: BaseModel) -> bytes:
    return value.model_dump_json(indent=1).encode()
