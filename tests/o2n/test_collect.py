"""A collection frees what nobody can be served, and nothing that anybody may yet be."""

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest

from o2n.category import BlobRef, Feedback, VersionRef
from o2n.collect import LEAST_AGE, collect
from o2n.errors import CategoryError, IntegrityError, NotFoundError, StoreError
from o2n.store import RENEW_AGE, CategoryStore
from tests.o2n.test_store import make, publish, serves_whole

WEEK = timedelta(days=7)


@pytest.fixture
def store(store_url: str) -> CategoryStore:
    return CategoryStore(store_url)


def later(by: timedelta = WEEK + timedelta(minutes=1)) -> datetime:
    return datetime.now(UTC) + by


def blobs(store: CategoryStore) -> set[str]:
    return {key.rpartition("/")[2] for key in store.objects.keys("blobs/")}


def anomalous(store: CategoryStore, ref: VersionRef) -> BlobRef:
    blob = store.put_blob(b"a picture of a scratch")
    said = Feedback(
        verdict="anomalous", by="ada", at=datetime.now(UTC), picture="0" * 64, version=ref.version, blob=blob
    )
    store.keep_feedback(ref.category, said)
    return blob


def test_what_serves_or_did_or_was_said_stays(store):
    first, second = publish(store, flavour=0), publish(store, flavour=1)
    other = publish(store, "bolt")
    blob = anomalous(store, second)
    before = store.objects.keys("")
    assert collect(store, WEEK, now=later()).bytes == 0
    assert store.objects.keys("") == before
    assert store.rollback("bottle") == first
    assert store.get_blob(blob)
    assert {serves_whole(store), serves_whole(store, "bolt")} == {first, other}


def test_a_deleted_category_goes_with_all_that_is_its_alone(store):
    shared = make(store, "bottle").blobs["adapter"]
    gone, kept = make(store, "bottle"), make(store, "bolt")
    kept = kept.model_copy(update={"blobs": kept.blobs | {"adapter": shared}})
    ref = store.publish(gone)
    store.publish(kept)
    anomalous(store, ref)
    store.delete("bottle")
    found = collect(store, WEEK, now=later())
    assert (found.versions, found.verdicts) == (1, 1)
    assert blobs(store) == {blob.sha256 for blob in kept.blobs.values()}
    assert not store.objects.keys("categories/bottle/")
    serves_whole(store, "bolt")


def test_what_is_young_stays_whoever_it_is_for(store):
    waiting = make(store)  # blobs, and no version yet
    store.remember("stage", store.put_blob(b"made of it"))
    store.publish(make(store, "bolt"))
    store.delete("bolt")
    before = store.objects.keys("")
    assert collect(store, WEEK, now=later(WEEK - timedelta(minutes=1))).bytes == 0
    assert store.objects.keys("") == before
    store.publish(waiting)
    serves_whole(store)


def test_an_onboarding_that_was_given_up_goes(store):
    blob = store.put_blob(b"an adapter that nobody came back for")
    store.remember("stage", blob)
    kept = publish(store)
    store.remember("kept", store.manifest(kept).blobs["adapter"])
    found = collect(store, WEEK, now=later())
    assert (found.stages, found.blobs) == (1, 1)
    assert store.recall("stage") is None
    assert store.recall("kept") is not None


def test_versions_beyond_those_to_keep_are_forgotten(store):
    refs = [publish(store, flavour=flavour) for flavour in range(5)]
    dry = collect(store, WEEK, keep=1, dry_run=True, now=later())
    assert len(store.pointer("bottle").history) == 4
    assert collect(store, WEEK, keep=1, now=later()) == dry
    assert dry.versions == 3
    assert store.pointer("bottle").history == [refs[3].version]
    for ref in refs[:3]:
        with pytest.raises(NotFoundError):
            store.manifest(ref)
    assert store.rollback("bottle") == refs[3]
    serves_whole(store)
    assert collect(store, WEEK, keep=0, now=later()).versions == 1
    serves_whole(store)


def test_what_was_onboarded_stays_for_as_long_as_what_was_fed_back_to_it(store):
    onboarded = publish(store)
    for flavour in range(1, 4):
        manifest = make(store, flavour=flavour).model_copy(update={"onboarded": onboarded.version})
        store.publish(manifest)
    assert collect(store, WEEK, keep=0, now=later()).versions == 2
    assert store.pointer("bottle").history == []
    for blob in store.manifest(onboarded).blobs.values():
        assert store.get_blob(blob)
    publish(store, flavour=4)
    assert collect(store, WEEK, keep=0, now=later()).versions == 2
    with pytest.raises(NotFoundError):
        store.manifest(onboarded)


def test_a_version_that_is_gone_back_to_while_others_are_forgotten_lives(store, monkeypatch):
    refs = [publish(store, flavour=flavour) for flavour in range(4)]
    trim = CategoryStore.trim

    def trim_late(store: CategoryStore, name: str, keep: int) -> None:
        store.rollback(name, refs[0].version)
        trim(store, name, keep)

    monkeypatch.setattr(CategoryStore, "trim", trim_late)
    assert collect(store, WEEK, keep=1, now=later()).versions == 2
    assert serves_whole(store) == refs[0]
    assert store.rollback("bottle") == refs[3]
    serves_whole(store)


def test_two_collections_at_once_are_not_in_each_others_way(store):
    publish(store)
    for flavour in range(8):
        publish(store, "bolt", flavour=flavour)
    store.delete("bolt")
    now = later()
    with ThreadPoolExecutor(4) as threads:
        for one in [threads.submit(collect, store, WEEK, keep=0, now=now) for _ in range(4)]:
            one.result()
        for one in [threads.submit(collect, store, WEEK) for _ in range(8)]:
            one.result()
    assert store.categories() == ["bottle"]
    assert not store.objects.keys("categories/bolt/")
    serves_whole(store)


@pytest.mark.parametrize("keep", [3, 4, 5, 9])
def test_no_more_is_forgotten_than_there_is_beyond_those_to_keep(store, keep):
    refs = [publish(store, flavour=flavour) for flavour in range(5)]
    assert collect(store, WEEK, keep=keep, now=later()).versions == max(0, 4 - keep)
    assert store.pointer("bottle").history == [ref.version for ref in refs[-1 - keep : -1]]
    for ref in refs[-1 - keep :]:
        store.manifest(ref)


def test_what_is_recalled_for_a_new_version_is_young_again(store, monkeypatch):
    manifest = make(store)
    blob = manifest.blobs["adapter"]
    store.remember("stage", blob)
    monkeypatch.setattr("o2n.store.RENEW_AGE", timedelta(0))
    now = later()
    assert store.recall("stage") == blob
    written = store.objects.entry(f"blobs/sha256/{blob.sha256}").modified
    assert written >= now - WEEK - timedelta(minutes=2)
    assert RENEW_AGE < LEAST_AGE / 2


def test_a_dead_version_that_is_published_again_lives(store, monkeypatch):
    """Its manifest is there already, as old as can be: a collection that has just looked must not take it."""
    ref = publish(store)
    store.delete("bottle")
    monkeypatch.setattr("o2n.store.RENEW_AGE", timedelta(0))
    key = f"categories/bottle/versions/{ref.version}.json"
    before = store.objects.get(key)[0]
    store.publish(make(store, day=3))
    assert store.objects.get(key)[0] == before  # with the date of its first making
    serves_whole(store)


def test_a_version_that_nobody_can_read_stops_it_before_anything_is_deleted(store):
    ref = publish(store)
    publish(store, flavour=1)
    store.put_blob(b"an orphan")
    store.objects.put(f"categories/bottle/versions/{ref.version}.json", b"{}")
    before, history = store.objects.keys(""), store.pointer("bottle").history
    with pytest.raises(IntegrityError, match=ref.version):
        collect(store, WEEK, now=later())
    publish(store, "bolt")
    broken = publish(store, "bolt", flavour=1)
    store.objects.put(f"categories/bolt/versions/{broken.version}.json", b"{}")
    with pytest.raises(IntegrityError, match=broken.version):
        collect(store, WEEK, keep=0, now=later())
    assert set(before) < set(store.objects.keys(""))
    assert store.pointer("bottle").history == history


def test_a_collection_that_is_stopped_anywhere_leaves_whole_versions(store, monkeypatch):
    for name in ("bottle", "bolt", "nut"):
        publish(store, name)
    store.delete("bottle")
    store.delete("nut")
    delete, count = type(store.objects).delete, 0

    def stopping(objects, key):
        nonlocal count
        if not key.startswith("probe"):
            count += 1
            if count % 3 == 0:
                raise StoreError("the network is gone")
        delete(objects, key)

    monkeypatch.setattr(type(store.objects), "delete", stopping)
    for _ in range(100):
        try:
            collect(store, WEEK, now=later())
            break
        except StoreError:
            left = {key.split("/")[1] for key in store.objects.keys("categories/") if "/versions/" in key}
            for name in left:
                for version in store.objects.keys(f"categories/{name}/versions/"):
                    ref = VersionRef(name, version.rpartition("/")[2].removesuffix(".json"))
                    for blob in store.manifest(ref).blobs.values():
                        store.get_blob(blob)
    assert store.categories() == ["bolt"]
    assert blobs(store) == {blob.sha256 for blob in store.manifest(store.current("bolt")).blobs.values()}


def test_the_stores_clock_is_asked(store):
    store.put_blob(b"an orphan")
    assert collect(store, LEAST_AGE).blobs == 0
    assert not store.objects.keys("probe")


def test_an_age_that_publishers_may_need_is_refused(store):
    with pytest.raises(CategoryError, match="1 day"):
        collect(store, timedelta(hours=1))
