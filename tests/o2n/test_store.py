"""What a store promises: whole versions or none, bytes that were not altered, one pointer that moves last."""

import pickle
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import get_args

import pytest
from pydantic import ValidationError

from o2n.calibration import Calibration
from o2n.category import BlobName, BlobRef, Feedback, Manifest, VersionRef
from o2n.errors import CategoryError, ConflictError, IntegrityError, NotFoundError, O2NError
from o2n.profiles import TINY
from o2n.store import CategoryStore

NEW_YEAR = datetime(2026, 1, 1, tzinfo=UTC)
HOSTILE_NAMES = [
    "a/b",
    "..",
    ".",
    "../a",
    "a b",
    "ünï",
    "",
    "x" * 300,
    "-a",
    "_a",
    "a\n",
    "CON/..",
    "a.b",
    "a\0",
    "%2e",
]
NO_JSON_OF_OURS = [
    b"",
    b"{",
    b"null",
    b"[]",
    b"{}",
    b"\xff\xfe\0",
    b"[" * 100_000,
    b'{"version": 7}',
    b'{"version": "../../../etc/passwd"}',
    b'{"version": "0123456789abcdef", "history": ["../x"]}',
    b'{"version": "0123456789abcdef", "more": 1}',
]


@pytest.fixture
def store(store_url: str) -> CategoryStore:
    return CategoryStore(store_url)


def make(store: CategoryStore, category: str = "bottle", flavour: int = 0, day: int = 0) -> Manifest:
    """The manifest of a version with blobs of its own, which are put; another flavour is another version."""
    blobs = {name: store.put_blob(f"{name} of {category} {flavour}".encode()) for name in get_args(BlobName)}
    return Manifest(
        category=category,
        object_word="bottle",
        profile=TINY,
        foundation="tiny 0123",
        blobs=blobs,
        reference_digests=[BlobRef.of(b"%d" % flavour).sha256],
        created=NEW_YEAR + timedelta(days=day),
        libraries={"torch": "2"},
    )


def publish(store: CategoryStore, category: str = "bottle", flavour: int = 0, day: int = 0) -> VersionRef:
    return store.publish(make(store, category, flavour, day))


def serves_whole(store: CategoryStore, category: str = "bottle") -> VersionRef:
    """The version that serves, once everything that scoring reads of it was read and verified."""
    ref = store.current(category)
    for blob in store.manifest(ref).blobs.values():
        store.get_blob(blob)
    return ref


def one_line(raised: pytest.ExceptionInfo[O2NError]) -> str:
    message = str(raised.value)
    assert len(message.splitlines()) == 1
    return message


def pointer_key(category: str = "bottle") -> str:
    return f"categories/{category}/current.json"


def manifest_key(ref: VersionRef) -> str:
    return f"categories/{ref.category}/versions/{ref.version}.json"


def blob_key(blob: BlobRef) -> str:
    return f"blobs/sha256/{blob.sha256}"


def test_a_blob_comes_back_as_it_was_put(store):
    for data in (b"", b"\0", bytes(range(256)) * 500):
        blob = store.put_blob(data)
        assert blob == BlobRef.of(data)
        assert store.get_blob(blob) == data


def test_the_same_blob_is_kept_once(store):
    assert store.put_blob(b"data") == store.put_blob(b"data")
    assert len(store.objects.keys("")) == 1


def test_a_blob_that_is_not_there_is_not_found(store):
    with pytest.raises(NotFoundError):
        store.get_blob(BlobRef.of(b"never put"))


def test_no_altered_blob_is_handed_out(store):
    data = b"thirty-two bytes of the features"
    blob = store.put_blob(data)
    flipped = [data[:at] + bytes([data[at] ^ 1 << at % 8]) + data[at + 1 :] for at in range(len(data))]
    for altered in [*flipped, b"", data[:-1], data[1:], data + b"\0", data + data, b"another blob"]:
        store.objects.put(blob_key(blob), altered)
        with pytest.raises(IntegrityError, match=blob.sha256) as raised:
            store.get_blob(blob)
        assert "onboard its category again" in one_line(raised)
    store.put_blob(data)
    assert store.get_blob(blob) == data


def test_a_blob_of_another_size_than_was_noted_is_not_handed_out(store):
    blob = store.put_blob(b"data")
    with pytest.raises(IntegrityError):
        store.get_blob(blob.model_copy(update={"size": 5}))


def test_a_published_version_serves_and_is_what_was_published(store):
    manifest = make(store)
    ref = store.publish(manifest)
    assert ref == manifest.ref
    assert serves_whole(store) == ref
    assert store.manifest(ref) == manifest
    assert store.versions("bottle") == [manifest]
    assert store.pointer("bottle").history == []


def test_publishing_what_serves_already_changes_nothing(store):
    first = make(store)
    store.publish(first)
    before = {key: store.objects.get(key) for key in store.objects.keys("")}
    again = first.model_copy(update={"created": NEW_YEAR + timedelta(days=9), "libraries": {"torch": "3"}})
    assert store.publish(again) == first.ref
    assert {key: store.objects.get(key) for key in store.objects.keys("")} == before


def test_a_version_made_of_another_is_published_only_while_that_one_serves(store):
    one = publish(store, flavour=1)
    with pytest.raises(NotFoundError, match="category cap is not in store"):
        store.publish(make(store, "cap"), after=one.version)
    two = store.publish(make(store, flavour=2), after=one.version)
    assert serves_whole(store) == two
    with pytest.raises(ConflictError, match=f"serves version {two.version} by now, not {one.version}") as raised:
        store.publish(make(store, flavour=3), after=one.version)
    one_line(raised)
    assert store.current("bottle") == two
    assert store.pointer("bottle").history == [one.version]
    assert store.publish(make(store, flavour=2), after=one.version) == two  # it serves already


def test_of_eight_that_build_on_one_version_one_succeeds(store_url):
    base, start = publish(CategoryStore(store_url)), threading.Barrier(8)

    def build(flavour: int) -> VersionRef | None:
        own = CategoryStore(store_url)
        manifest = make(own, flavour=flavour)
        start.wait()
        try:
            return own.publish(manifest, after=base.version)
        except ConflictError:
            return None

    with ThreadPoolExecutor(8) as threads:
        refs = list(threads.map(build, range(1, 9)))
    store = CategoryStore(store_url)
    assert [ref for ref in refs if ref] == [serves_whole(store)]
    assert store.pointer("bottle").history == [base.version]


def test_a_calibration_is_read_or_refused(store):
    made = Calibration(scores=(0.5, 1.0))
    for data, said in {
        made.model_dump_json().encode(): None,
        b'{"scores": [2, 1]}': "scores: are not ascending",
        b"[1, 2]": "was altered, or written by another release",
    }.items():
        manifest = make(store)
        blobs = {**manifest.blobs, "calibration": store.put_blob(data)}
        ref = store.publish(manifest.model_copy(update={"blobs": blobs}))
        if said is None:
            assert store.calibration(ref) == made
            continue
        with pytest.raises(IntegrityError, match=f"the calibration of bottle version {ref.version}.*{said}") as raised:
            store.calibration(ref)
        one_line(raised)
    del blobs["calibration"]
    ref = store.publish(manifest.model_copy(update={"blobs": blobs}))
    with pytest.raises(IntegrityError, match="is missing: another release"):
        store.calibration(ref)


def said(verdict: str, minute: int) -> Feedback:
    at = NEW_YEAR + timedelta(minutes=minute)
    return Feedback(verdict=verdict, by="ada", at=at, picture=f"{minute:064x}", version="0" * 16)


def test_feedback_is_listed_oldest_first_wherever_it_is_kept(store):
    publish(store)
    assert store.feedback("bottle") == []
    one, two, three = said("anomalous", 1), said("normal", 2), said("anomalous", 3)
    for record in (three, one, one):
        store.keep_feedback("bottle", record)
    store.keep_feedback("cap", said("anomalous", 4))
    store.publish(make(store, flavour=1).model_copy(update={"feedback": [two]}))
    store.rollback("bottle")
    assert store.feedback("bottle") == [one, two, three]
    assert store.categories() == ["bottle"]
    with pytest.raises(NotFoundError):
        store.feedback("cap")


def test_feedback_of_a_version_is_read_in_the_one_made_of_it(store, monkeypatch):
    def judged(parent: Manifest, minute: int) -> Manifest:
        feedback = [*parent.feedback, said("normal", minute)]
        made = parent.model_copy(update={"parent": parent.version, "feedback": feedback})
        store.publish(made)
        return made

    first = make(store)
    store.publish(first)
    second = judged(first, 1)
    rolled_back = judged(second, 2)
    store.rollback("bottle")
    judged(judged(judged(second, 3), 4), 5)
    read, get = [], store.objects.get
    monkeypatch.setattr(store.objects, "get", lambda key: read.append(key) or get(key))
    assert store.feedback("bottle") == [said("normal", minute) for minute in range(1, 6)]
    manifests = [key for key in read if "/versions/" in key]
    assert manifest_key(rolled_back.ref) in manifests
    assert len(manifests) == 4 < len(store.versions("bottle"))


def test_feedback_that_is_not_ours_is_told(store):
    publish(store)
    store.objects.put("categories/bottle/feedback/0.json", b"{}")
    with pytest.raises(IntegrityError, match="categories/bottle/feedback/0") as raised:
        store.feedback("bottle")
    one_line(raised)


def test_what_served_before_goes_to_the_history(store):
    refs = [publish(store, flavour=flavour) for flavour in range(3)]
    assert store.current("bottle") == refs[2]
    assert store.pointer("bottle").history == [refs[0].version, refs[1].version]


def test_publishing_an_earlier_version_lets_it_serve_again(store):
    refs = [publish(store, flavour=flavour) for flavour in (0, 1, 0)]
    assert refs[0] == refs[2]
    assert serves_whole(store) == refs[0]
    assert store.pointer("bottle").history == [refs[1].version]


def test_versions_come_newest_first_whatever_their_order(store):
    for flavour, day in enumerate((3, 1, 4, 2)):
        publish(store, flavour=flavour, day=day)
    store.rollback("bottle")
    days = [(manifest.created - NEW_YEAR).days for manifest in store.versions("bottle")]
    assert days == [4, 3, 2, 1]


def test_categories_do_not_touch_each_other(store):
    one, other = publish(store, "cap"), publish(store, "cap2")
    publish(store, "cap", flavour=1)
    assert store.current("cap2") == other
    assert store.pointer("cap2").history == []
    store.delete("cap")
    assert serves_whole(store, "cap2") == other
    assert store.manifest(one).ref == one


def test_a_version_with_a_missing_or_partial_blob_is_not_published(store):
    for name in get_args(BlobName):
        manifest = make(store)
        key = blob_key(manifest.blobs[name])
        store.objects.delete(key)
        for _ in range(2):
            with pytest.raises(IntegrityError, match=f"its {name} are not whole") as raised:
                store.publish(manifest)
            one_line(raised)
            assert store.categories() == []
            assert store.objects.keys("categories/") == []
            store.objects.put(key, b"part")


def test_a_refused_version_leaves_the_one_before_serving(store):
    before = publish(store)
    manifest = make(store, flavour=1)
    store.objects.delete(blob_key(manifest.blobs["pool"]))
    with pytest.raises(IntegrityError):
        store.publish(manifest)
    assert serves_whole(store) == before
    assert store.pointer("bottle").history == []


def test_rollback_toggles_between_the_last_two(store):
    one, two = publish(store, flavour=1), publish(store, flavour=2)
    assert store.rollback("bottle") == one
    assert serves_whole(store) == one
    assert store.rollback("bottle") == two
    assert serves_whole(store) == two
    assert store.pointer("bottle").history == [one.version]


def test_rollback_by_id_goes_to_any_version_and_loses_none(store):
    refs = [publish(store, flavour=flavour) for flavour in range(4)]
    for ref in (refs[1], refs[0], refs[0], refs[3]):
        assert store.rollback("bottle", ref.version) == ref
        pointer = store.pointer("bottle")
        assert pointer.version == ref.version
        assert sorted([*pointer.history, pointer.version]) == sorted(ref.version for ref in refs)


def test_rollback_to_what_serves_changes_nothing(store):
    publish(store, flavour=0)
    ref = publish(store, flavour=1)
    before = store.objects.get(pointer_key())
    assert store.rollback("bottle", ref.version) == ref
    assert store.objects.get(pointer_key()) == before


def test_rollback_to_nowhere_is_not_found(store):
    with pytest.raises(NotFoundError, match="category bottle is not in store") as raised:
        store.rollback("bottle")
    one_line(raised)
    ref = publish(store)
    with pytest.raises(NotFoundError, match="no earlier version") as raised:
        store.rollback("bottle")
    one_line(raised)
    other = publish(store, "cap", flavour=1)
    for version in ("0" * 16, other.version, "", "../../x", ref.version[:8], ref.version.upper() + "A"):
        with pytest.raises(NotFoundError, match="never served version") as raised:
            store.rollback("bottle", version)
        one_line(raised)
    assert store.current("bottle") == ref


def test_rollback_to_a_version_that_is_not_whole_is_refused(store):
    manifest = make(store)
    store.publish(manifest)
    serving = publish(store, flavour=1)
    before = store.objects.get(pointer_key())
    for key, damage in {
        blob_key(manifest.blobs["adapter"]): b"part",
        blob_key(manifest.blobs["features"]): None,
        manifest_key(manifest.ref): b"{}",
    }.items():
        kept = store.objects.get(key)[0]
        store.objects.delete(key)
        if damage is not None:
            store.objects.put(key, damage)
        for version in (None, manifest.version):
            with pytest.raises(IntegrityError) as raised:
                store.rollback("bottle", version)
            one_line(raised)
        assert store.objects.get(pointer_key()) == before
        assert serves_whole(store) == serving
        store.objects.put(key, kept)
    assert store.rollback("bottle") == manifest.ref


def test_a_deleted_category_is_out_of_sight_until_it_is_onboarded_again(store):
    publish(store, flavour=0)
    ref = publish(store, flavour=1)
    store.delete("bottle")
    assert store.categories() == []
    for look in (store.current, store.pointer, store.versions, store.rollback, store.delete):
        with pytest.raises(NotFoundError, match="category bottle is not in store") as raised:
            look("bottle")
        one_line(raised)
    assert publish(store, flavour=1) == ref
    assert serves_whole(store) == ref
    assert store.categories() == ["bottle"]
    assert store.pointer("bottle").history == []


def test_categories_are_those_with_a_pointer_sorted(store):
    assert store.categories() == []
    for name in ("b", "a-2", "A", "a"):
        publish(store, name)
    # What a publisher leaves that was killed before it moved the pointer.
    unfinished = make(store, "c")
    store.objects.put(manifest_key(unfinished.ref), unfinished.model_dump_json().encode())
    assert store.categories() == ["A", "a", "a-2", "b"]


def test_of_eight_publishers_at_once_every_version_is_kept(store_url):
    start = threading.Barrier(8)

    def onboard(flavour: int) -> VersionRef:
        own = CategoryStore(store_url)
        manifest = make(own, flavour=flavour, day=flavour)
        start.wait()
        return own.publish(manifest)

    with ThreadPoolExecutor(8) as threads:
        refs = list(threads.map(onboard, range(8)))
    store = CategoryStore(store_url)
    assert [manifest.ref for manifest in store.versions("bottle")] == refs[::-1]
    pointer = store.pointer("bottle")
    assert sorted([*pointer.history, pointer.version]) == sorted(ref.version for ref in refs)
    assert serves_whole(store) in refs


def test_of_eight_publishers_of_one_version_all_succeed(store_url):
    start = threading.Barrier(8)

    def onboard(day: int) -> VersionRef:
        own = CategoryStore(store_url)
        manifest = make(own, day=day)
        start.wait()
        return own.publish(manifest)

    with ThreadPoolExecutor(8) as threads:
        refs = set(threads.map(onboard, range(8)))
    store = CategoryStore(store_url)
    assert refs == {serves_whole(store)}
    assert store.pointer("bottle").history == []
    assert len(store.versions("bottle")) == 1


class KilledError(BaseException):
    """Nobody catches it, as nobody catches SIGKILL."""


class MortalObjects:
    """The objects, until a write at which their user is killed: before it is made, or right after."""

    def __init__(self, objects, killed_at: int | None = None, after: bool = False) -> None:
        self.objects, self.killed_at, self.after, self.writes = objects, killed_at, after, 0

    def __getattr__(self, name: str):
        return getattr(self.objects, name)

    def put(self, *arguments) -> None:
        self._write(self.objects.put, arguments)

    def put_if(self, *arguments) -> None:
        self._write(self.objects.put_if, arguments)

    def _write(self, write, arguments) -> None:
        killed = self.writes == self.killed_at
        self.writes += 1
        if killed and not self.after:
            raise KilledError
        write(*arguments)
        if killed:
            raise KilledError


def onboarding(store: CategoryStore, category: str, flavour: int) -> VersionRef:
    manifest = make(store, category, flavour)
    store.remember(f"{category}-{flavour}", manifest.blobs["adapter"])
    return store.publish(manifest)


def writes_of(work, store_url: str) -> int:
    store = CategoryStore(store_url)
    counting = store.objects = MortalObjects(store.objects)
    work(store)
    return counting.writes


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_a_publisher_killed_at_any_write_leaves_a_whole_version_serving(store_url, after):
    count = writes_of(lambda store: onboarding(store, "counted", 0), store_url)
    assert count == len(get_args(BlobName)) + 3  # the blobs, a stage, the manifest, the pointer
    store = CategoryStore(store_url)
    objects = store.objects
    for number in range(count):
        category = f"killed-{number}"
        old, new = publish(store, category), make(store, category, 1).ref
        store.objects = MortalObjects(objects, number, after)
        with pytest.raises(KilledError):
            onboarding(store, category, 1)
        store.objects = objects
        last = after and number == count - 1
        assert serves_whole(store, category) == (new if last else old)
        assert [manifest.ref for manifest in store.versions(category)].count(old) == 1
        assert onboarding(store, category, 1) == new
        assert serves_whole(store, category) == new
        assert store.pointer(category).history == [old.version]


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_a_first_publisher_killed_at_any_write_leaves_a_whole_category_or_none(store_url, after):
    count = writes_of(lambda store: onboarding(store, "counted", 0), store_url)
    store = CategoryStore(store_url)
    objects = store.objects
    for number in range(count):
        category = f"killed-{number}"
        store.objects = MortalObjects(objects, number, after)
        with pytest.raises(KilledError):
            onboarding(store, category, 0)
        store.objects = objects
        assert (category in store.categories()) == (after and number == count - 1)
        new = onboarding(store, category, 0)
        assert serves_whole(store, category) == new
        assert store.pointer(category).history == []


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_a_rollback_that_is_killed_happened_or_did_not(store, after):
    one, two = publish(store, flavour=1), publish(store, flavour=2)
    objects = store.objects
    store.objects = MortalObjects(objects, 0, after)
    with pytest.raises(KilledError):
        store.rollback("bottle")
    store.objects = objects
    assert serves_whole(store) == (one if after else two)
    assert len(store.versions("bottle")) == 2


def test_a_pointer_that_is_not_ours_is_told_and_cured_as_the_message_says(store):
    manifest = make(store)
    store.publish(manifest)
    for garbage in NO_JSON_OF_OURS:
        store.objects.put(pointer_key(), garbage)
        for use in (store.pointer, store.current, store.versions, store.rollback, lambda _: store.publish(manifest)):
            with pytest.raises(IntegrityError, match=pointer_key()) as raised:
                use("bottle")
            assert "'o2n categories delete bottle', then onboard it again" in one_line(raised)
        assert store.objects.get(pointer_key())[0] == garbage
    store.delete("bottle")
    store.publish(manifest)
    assert serves_whole(store) == manifest.ref


def test_a_manifest_that_is_not_ours_is_told(store):
    manifest = make(store)
    ref = store.publish(manifest)
    whole = store.objects.get(manifest_key(ref))[0]
    cuts = [whole[:length] for length in range(1, len(whole), 97)]
    for garbage in [*NO_JSON_OF_OURS, *cuts, whole + whole, store.objects.get(pointer_key())[0]]:
        store.objects.put(manifest_key(ref), garbage)
        with pytest.raises(IntegrityError, match=ref.version) as raised:
            store.manifest(ref)
        assert "onboard the category again" in one_line(raised)
    with pytest.raises(IntegrityError):
        store.versions("bottle")


def altered(manifest: Manifest) -> list[Manifest]:
    blobs = dict(manifest.blobs)
    del blobs["pool"]
    exchanged = {**manifest.blobs, "adapter": manifest.blobs["pool"]}
    updates = [
        {"category": "cap"},
        {"object_word": "can"},
        {"profile": TINY.model_copy(update={"alpha": TINY.alpha + 1})},
        {"foundation": "another"},
        {"blobs": blobs},
        {"blobs": exchanged},
        {"reference_digests": []},
        {"parent": "0" * 16},
        {"feedback": [said("normal", 1)]},
    ]
    return [manifest.model_copy(update=update) for update in updates]


def test_a_manifest_that_says_something_else_than_its_name_is_told(store):
    manifest = make(store)
    ref = store.publish(manifest)
    for other in altered(manifest):
        store.objects.put(manifest_key(ref), other.model_dump_json().encode())
        with pytest.raises(IntegrityError, match=f"{ref.category} version {ref.version} was altered") as raised:
            store.manifest(ref)
        one_line(raised)


def test_publishing_again_heals_a_damaged_manifest(store):
    publish(store, flavour=1)
    manifest = make(store)
    ref = store.publish(manifest)
    pointer = store.objects.get(pointer_key())
    for damage in [b"", b"{", altered(manifest)[1].model_dump_json().encode()]:
        store.objects.put(manifest_key(ref), damage)
        assert store.publish(manifest) == ref
        assert store.manifest(ref) == manifest
        assert store.objects.get(pointer_key()) == pointer
    store.objects.delete(manifest_key(ref))
    store.publish(manifest)
    assert store.manifest(ref) == manifest


def test_versions_that_do_not_exist_are_not_found(store):
    ref = publish(store)
    for version in ("0" * 16, "", "..", "../current", "../../other/current", ref.version.upper(), f"{ref.version}\n"):
        if version == ref.version:  # all digits
            continue
        with pytest.raises(NotFoundError) as raised:
            store.manifest(VersionRef("bottle", version))
        one_line(raised)


def test_hostile_category_names_are_refused_everywhere_and_write_nothing(store):
    manifest = make(store)
    before = store.objects.keys("")
    for name in HOSTILE_NAMES:
        for use in (
            store.pointer,
            store.current,
            store.versions,
            store.rollback,
            store.feedback,
            store.delete,
            lambda name: store.keep_feedback(name, said("anomalous", 1)),
            lambda name: store.calibration(VersionRef(name, "0" * 16)),
            lambda name: store.rollback(name, "0" * 16),
            lambda name: store.manifest(VersionRef(name, "0" * 16)),
            lambda name: store.publish(manifest.model_copy(update={"category": name})),
        ):
            with pytest.raises(CategoryError, match="is refused") as raised:
                use(name)
            one_line(raised)
        with pytest.raises(ValidationError):
            Manifest.model_validate({**manifest.model_dump(), "category": name})
    assert store.objects.keys("") == before


def test_recall_gives_the_blob_of_a_stage(store):
    blob = store.put_blob(b"data")
    store.remember("0" * 64, blob)
    assert store.recall("0" * 64) == blob
    store.remember("0" * 64, other := store.put_blob(b"other"))
    assert store.recall("0" * 64) == other


def test_recall_gives_nothing_unless_the_blob_is_there_and_whole(store):
    assert store.recall("unknown") is None
    blob = store.put_blob(b"data")
    store.remember("stage", blob)
    for altered_data in (b"datA", b"dat", b""):
        store.objects.put(blob_key(blob), altered_data)
        assert store.recall("stage") is None
    store.objects.delete(blob_key(blob))
    assert store.recall("stage") is None
    store.put_blob(b"data")
    assert store.recall("stage") == blob
    for garbage in NO_JSON_OF_OURS:
        store.objects.put("stages/stage.json", garbage)
        assert store.recall("stage") is None


def test_a_pickled_store_is_one_at_the_same_url(store):
    ref = publish(store)
    other = pickle.loads(pickle.dumps(store))
    assert other.url == store.url
    assert serves_whole(other) == ref
