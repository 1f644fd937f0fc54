"""Which version serves: a real store, whose pointers move, and versions that load as the library loads them."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator

import pytest

from o2n.category import Manifest, VersionRef
from o2n.errors import FoundationError, IntegrityError, NotFoundError, StoreError
from o2n.store import CategoryStore
from o2n.triplet import TripletScorer
from serve import catalog as timing
from serve.catalog import Catalog
from tests.helpers import QUICK


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "FRESH_SECONDS", 0.0)
    monkeypatch.setattr(timing, "RETRY_SECONDS", 0.2)


@pytest.fixture
def category(published: CategoryStore) -> Iterator[Callable[..., Manifest]]:
    """Publishes further versions of the category `turning`, which differ in their word; `blobs` replace theirs."""
    base = published.manifest(published.current("checks"))

    def publish(word: str, foundation: str = base.foundation, **blobs: bytes) -> Manifest:
        replaced = {name: published.put_blob(data) for name, data in blobs.items()}
        manifest = base.model_copy(
            update={
                "category": "turning",
                "object_word": word,
                "foundation": foundation,
                "blobs": base.blobs | replaced,
            }
        )
        published.publish(manifest)
        return manifest

    yield publish
    published.objects.delete("categories/turning/current.json")


class Loader:
    """Loads a version as a replica would; `gate` holds it up."""

    def __init__(self, store: CategoryStore) -> None:
        self._scorer = TripletScorer(QUICK, store)
        self.gate = asyncio.Event()
        self.gate.set()
        self.asked: list[VersionRef] = []

    async def __call__(self, ref: VersionRef) -> None:
        self.asked.append(ref)
        await self.gate.wait()
        await asyncio.to_thread(self._scorer.load, ref)


def catalog_of(store: CategoryStore) -> tuple[Catalog, Loader]:
    loader = Loader(store)
    return Catalog(store, loader, loader), loader


def run(main: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(main())


def test_a_new_version_takes_over_at_once(published: CategoryStore, category: Callable[..., Manifest]) -> None:
    async def main() -> None:
        catalog, loader = catalog_of(published)
        first = category("one")
        assert await catalog.current("turning") == first.ref
        second = category("two")
        assert await catalog.current("turning") == second.ref
        assert loader.asked == [first.ref, second.ref]
        assert catalog.refused("turning") is None
        published.rollback("turning")
        assert await catalog.current("turning") == first.ref

    run(main)


def test_the_old_one_serves_while_the_new_one_loads(
    published: CategoryStore, category: Callable[..., Manifest], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        catalog, loader = catalog_of(published)
        first = category("one")
        await catalog.current("turning")
        second = category("two")
        loader.gate.clear()
        monkeypatch.setattr(timing, "PATIENCE_SECONDS", 0.3)
        found = await asyncio.gather(*(catalog.current("turning") for _ in range(20)))
        assert set(found) == {first.ref}
        assert loader.asked == [first.ref, second.ref]  # loaded once, whoever asks
        loader.gate.set()
        await asyncio.sleep(0.5)
        assert await catalog.current("turning") == second.ref

    run(main)


@pytest.mark.parametrize("kind", ["altered", "gone", "foreign", "uncalibrated"])
def test_a_version_that_does_not_load_is_refused(
    published: CategoryStore, category: Callable[..., Manifest], kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        catalog, loader = catalog_of(published)
        first = category("one")
        assert await catalog.current("turning") == first.ref
        if kind == "altered":
            broken = category("broken", adapter=b"no adapter")
        elif kind == "uncalibrated":
            broken = category("broken", calibration=b"no calibration")
        elif kind == "gone":
            broken = category("broken", text_features=b"soon gone")
            published.objects.delete(f"blobs/sha256/{broken.blobs['text_features'].sha256}")
        else:
            broken = category("broken", foundation="another")
        with caplog.at_level(logging.WARNING):
            for _ in range(5):
                assert await catalog.current("turning") == first.ref
        refusals = [record for record in caplog.records if "is refused" in record.message]
        assert len(refusals) == 1
        assert broken.version in refusals[0].message
        assert catalog.refused("turning")
        tried = len(loader.asked)
        await asyncio.sleep(0.3)
        await catalog.current("turning")
        assert len(loader.asked) == tried + (kind != "uncalibrated")  # tried again, after a while
        third = category("three")
        assert await catalog.current("turning") == third.ref
        assert catalog.refused("turning") is None

    run(main)


def test_after_a_restart_the_newest_that_loads_serves(
    published: CategoryStore, category: Callable[..., Manifest]
) -> None:
    async def main() -> None:
        category("one")
        second = category("two")
        category("broken", features=b"no features")
        category("broken too", adapter=b"no adapter")
        catalog, _ = catalog_of(published)
        assert await catalog.current("turning") == second.ref
        assert "no adapter" in str(catalog.refused("turning"))

    run(main)


def test_without_an_earlier_version_the_error_is_told(
    published: CategoryStore, category: Callable[..., Manifest]
) -> None:
    async def main() -> None:
        catalog, loader = catalog_of(published)
        category("broken", features=b"no features")
        for _ in range(3):
            with pytest.raises(IntegrityError, match="features"):
                await catalog.current("turning")
        assert len(loader.asked) == 1
        published.delete("turning")
        category("foreign", foundation="another")
        catalog, _ = catalog_of(published)
        with pytest.raises((FoundationError, IntegrityError)):
            await catalog.current("turning")

    run(main)


def test_a_category_that_is_deleted_is_gone(published: CategoryStore, category: Callable[..., Manifest]) -> None:
    async def main() -> None:
        catalog, _ = catalog_of(published)
        category("one")
        await catalog.current("turning")
        published.delete("turning")
        for _ in range(2):
            with pytest.raises(NotFoundError, match="turning"):
                await catalog.current("turning")
        first = category("one")
        assert await catalog.current("turning") == first.ref

    run(main)


def test_a_store_that_is_away_stops_nobody_who_is_served_already(
    published: CategoryStore, category: Callable[..., Manifest], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        catalog, _ = catalog_of(published)
        first = category("one")
        await catalog.current("turning")

        def away(key: str) -> tuple[bytes, str]:
            raise StoreError("the store is away")

        with monkeypatch.context() as patch:
            patch.setattr(published.objects, "get", away)
            assert await catalog.current("turning") == first.ref
            with pytest.raises(StoreError):
                await catalog.current("checks")
        assert (await catalog.current("checks")).category == "checks"

    run(main)


def test_nobody_asks_nothing_is_read(
    published: CategoryStore, category: Callable[..., Manifest], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        monkeypatch.setattr(timing, "FRESH_SECONDS", 0.5)
        catalog, _ = catalog_of(published)
        category("one")
        await catalog.current("turning")
        read = []
        get = published.objects.get
        monkeypatch.setattr(published.objects, "get", lambda key: read.append(key) or get(key))
        await asyncio.gather(*(catalog.current("turning") for _ in range(50)))
        await asyncio.sleep(0.7)
        assert read == []
        await asyncio.gather(*(catalog.current("turning") for _ in range(50)))
        assert read == ["categories/turning/current.json"]

    run(main)
