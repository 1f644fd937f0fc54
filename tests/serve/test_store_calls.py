"""A store that hangs: what is loaded is scored, and the others are told in time."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from o2n.category import Verdict
from o2n.errors import DeadlineError, StoreError
from o2n.s3 import s3_client
from o2n.store import CategoryStore
from serve import catalog, service
from serve.listing import READERS
from serve.service import Learned, Service, Upload
from serve.store_calls import THREADS
from tests.helpers import checks
from tests.serve.conftest import Counting, InProcess

UPLOAD = Upload("new.png", checks(30))


@pytest.fixture
def store(published: CategoryStore) -> Counting:
    return Counting(published.url)


@contextmanager
def hanging(store: Counting) -> Iterator[None]:
    """Within it no read ends, and who waits for one is soon tired of it."""
    store.answers.clear()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(catalog, "PATIENCE_SECONDS", 0.3)
        patch.setattr(catalog, "FIRST_SECONDS", 0.3)
        patch.setattr(service, "READY_TIMEOUT_SECONDS", 0.3)
        try:
            yield
        finally:
            store.answers.set()


def run(main: Callable[[], Awaitable[None]]) -> None:
    async def limited() -> None:
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(5))  # as Ray Serve does for a gateway
        async with asyncio.timeout(120):
            await main()

    asyncio.run(limited())


def test_what_is_loaded_is_scored(store: Counting) -> None:
    async def main() -> None:
        service = Service(store, InProcess(store))
        ref = await service.catalog.current("checks")
        (before,) = await service.score(ref, [UPLOAD], lambda found: found)
        with hanging(store):
            asking = [asyncio.create_task(service.feedback("checks")) for _ in range(20)]
            for _ in range(6):
                assert not (await service.ready())["store"]
            assert await service.catalog.current("checks") == ref
            (found,) = await service.score(ref, [UPLOAD], lambda found: found)
            assert found.score.score == pytest.approx(before.score.score, abs=1e-5)
        await asyncio.gather(*asking)
        assert (await service.ready())["store"]

    run(main)


def test_many_who_ask_whether_it_is_ready_wait_for_one_read(store: Counting) -> None:
    async def main() -> None:
        service = Service(store, InProcess(store))
        with hanging(store):
            for _ in range(3):
                answers = await asyncio.gather(*(service.ready() for _ in range(20)))
                assert {ready["store"] for ready in answers} == {False}
            assert store.reads == 1
        assert (await service.ready())["store"]

    run(main)


def test_who_needs_it_is_told_in_time_and_finds_what_others_asked_for(store: Counting) -> None:
    async def main() -> None:
        branches = InProcess(store)
        branches.deadline_seconds = 0.3
        service, unread = Service(store, branches), store.current("stripes")
        before = store.reads
        with hanging(store):
            for _ in range(3):
                with pytest.raises(DeadlineError, match="category checks did not load in time"):
                    await service.catalog.current("checks")
            assert store.reads - before == 1
            with pytest.raises(DeadlineError, match="did not answer in time"):
                await service.score(unread, [UPLOAD], lambda found: found)
        assert await service.catalog.current("checks") == store.current("checks")

    run(main)


def test_verdicts_rollbacks_and_details_are_told_in_time(store: Counting) -> None:
    async def main() -> None:
        branches = InProcess(store)
        service = Service(store, branches)
        await service.catalog.current("checks")
        branches.deadline_seconds = 0.3

        def learn(verdict: Verdict) -> Awaitable[Learned]:
            return service.learn("checks", UPLOAD, verdict, None, "ada")

        def asked() -> list[Awaitable[object]]:
            told = [service.feedback("checks"), service.category("checks"), service.category_details("checks")]
            # The last has to wait until one of the two before it gives up its place.
            return [*told, service.rollback("checks", None), *(learn("withdrawn") for _ in range(3))]

        with hanging(store):
            async with asyncio.timeout(20):
                for found in await asyncio.gather(*asked(), return_exceptions=True):
                    assert isinstance(found, DeadlineError)
        branches.deadline_seconds = 60.0
        assert await service.category("checks")

    run(main)


def test_what_is_given_up_is_not_gone_on_with() -> None:
    async def main() -> None:
        given_up = []

        async def waiting(number: int) -> None:
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                given_up.append(number)
                raise

        async def failing() -> None:
            await asyncio.sleep(0.01)
            raise StoreError("full")

        with pytest.raises(StoreError, match="full"):
            await service._all([waiting(1), failing(), waiting(2)])
        await asyncio.sleep(0)
        assert given_up == [1, 2]

        async def double(number: int) -> int:
            await asyncio.sleep(0.01 / number)
            return 2 * number

        assert await service._all(map(double, (1, 2, 3))) == [2, 4, 6]

    run(main)


def test_a_list_is_read_once_for_all_who_ask_and_drives_nothing_out(
    store: Counting, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(catalog, "MANIFESTS", 1)

    async def main() -> None:
        service = Service(store, InProcess(store))
        names, scoring = store.categories(), store.current("checks")
        assert len(names) > 1
        await service.catalog.manifest_of(scoring)
        before = store.reads

        async def read() -> int:
            nonlocal before
            await service.catalog.manifest_of(scoring)
            before, since = store.reads, store.reads - before
            return since

        asking = [asyncio.create_task(service.categories()) for _ in range(5)]
        await asyncio.sleep(0)
        asking.pop().cancel()  # who goes away does not take the others' list along
        lists = [[answer.category for answer in await asked] for asked in asking]
        assert lists == [names] * 4
        assert await read() == 2 * len(names)
        listed = await service.categories()
        assert await read() == 0
        service._forget("checks")
        assert await service.categories() == listed
        assert await read() == len(names)  # their pointers; a version stays what it is

        service._forget("checks")
        reading, begun = asyncio.create_task(service.categories()), store.reads
        while store.reads == begun:
            await asyncio.sleep(0.001)
        service._forget("checks")  # which the list that is being read may not know of
        await reading
        await read()
        assert await service.categories() == listed
        assert await read() == len(names)

    run(main)


def test_a_list_is_read_by_as_many_as_leave_threads_and_connections_to_others(s3: str, tmp_path: Path) -> None:
    assert s3_client().meta.config.max_pool_connections == THREADS
    store = Counting(tmp_path.as_uri())
    for number in range(THREADS):
        store.objects.put(f"categories/c{number}/current.json", b"{}")

    async def main() -> None:
        service = Service(store, InProcess(store))
        with hanging(store):
            listing = asyncio.create_task(service.categories())
            await asyncio.sleep(0.5)
            assert store.reads == READERS
            others = [asyncio.create_task(service.feedback("c0")) for _ in range(THREADS)]
            await asyncio.sleep(0.5)
            assert store.reads == THREADS
        assert await listing == []
        await asyncio.gather(*others, return_exceptions=True)

    run(main)


def test_who_waits_for_a_list_is_told_in_time(store: Counting) -> None:
    async def main() -> None:
        branches = InProcess(store)
        branches.deadline_seconds = 0.3
        service = Service(store, branches)
        with hanging(store):
            for _ in range(3):
                with pytest.raises(DeadlineError, match="did not answer in time"):
                    await service.categories()
        branches.deadline_seconds = 60.0
        before = store.reads
        assert [answer.category for answer in await service.categories()] == store.categories()
        assert store.reads - before <= 2 * len(store.categories())  # one list, begun by the first who asked

    run(main)


def test_a_list_that_failed_is_not_kept(store: Counting, monkeypatch: pytest.MonkeyPatch) -> None:
    def away(prefix: str) -> list[str]:
        raise StoreError("the store is away")

    async def main() -> None:
        service = Service(store, InProcess(store))
        with monkeypatch.context() as patch:
            patch.setattr(store.objects, "keys", away)
            with pytest.raises(StoreError, match="away"):
                await service.categories()
        assert await service.categories()

    run(main)
