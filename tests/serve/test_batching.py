"""What is waiting goes together, nobody waits for company, and one caller's end is not another's."""

import asyncio
from collections.abc import Callable
from contextvars import ContextVar

import pytest

from serve.batching import Batcher

request: ContextVar[str] = ContextVar("request", default="")


class Model:
    """Doubles numbers, a batch whenever it is let; remembers the batches."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.free = asyncio.Event()
        self.seen: list[str] = []

    async def __call__(self, items: list[int]) -> list[int]:
        self.batches.append(items)
        self.seen.append(request.get())
        await self.free.wait()
        if 13 in items:
            raise ValueError("thirteen")
        return [2 * item for item in items]


def run(test: Callable[[Model, Batcher[int, int]], object]) -> None:
    async def main() -> None:
        model = Model()
        await asyncio.wait_for(test(model, Batcher(model, largest=4)), 30)

    asyncio.run(main())


async def begun(batcher: Batcher[int, int], items: list[int]) -> list["asyncio.Task[int]"]:
    tasks = [asyncio.create_task(batcher(item)) for item in items]
    await asyncio.sleep(0.01)
    return tasks


def test_an_item_alone_is_run_at_once_and_those_that_come_meanwhile_together() -> None:
    async def test(model: Model, batcher: Batcher[int, int]) -> None:
        first = await begun(batcher, [1])
        assert model.batches == [[1]]
        later = await begun(batcher, [2, 3, 4, 5, 6, 7])
        assert model.batches == [[1]]
        model.free.set()
        assert await asyncio.gather(*first, *later) == [2, 4, 6, 8, 10, 12, 14]
        assert model.batches == [[1], [2, 3, 4, 5], [6, 7]]

    run(test)


def test_it_works_again_after_a_pause() -> None:
    async def test(model: Model, batcher: Batcher[int, int]) -> None:
        model.free.set()
        for item in range(3):
            assert await batcher(item) == 2 * item
        assert model.batches == [[0], [1], [2]]

    run(test)


def test_an_error_is_its_own_batchs_alone() -> None:
    async def test(model: Model, batcher: Batcher[int, int]) -> None:
        tasks = await begun(batcher, [13])
        tasks += await begun(batcher, [1, 2])
        model.free.set()
        with pytest.raises(ValueError, match="thirteen"):
            await tasks[0]
        assert await asyncio.gather(*tasks[1:]) == [2, 4]

    run(test)


def test_a_caller_that_gives_up_is_left_out_and_takes_nobody_along() -> None:
    async def test(model: Model, batcher: Batcher[int, int]) -> None:
        tasks = await begun(batcher, [1])
        tasks += await begun(batcher, [2, 3])
        tasks[0].cancel()  # while its batch runs
        tasks[1].cancel()  # while it waits
        await asyncio.sleep(0.01)
        model.free.set()
        assert await tasks[2] == 6
        assert model.batches == [[1], [3]]

    run(test)


def test_a_batch_runs_in_no_requests_context() -> None:
    async def test(model: Model, batcher: Batcher[int, int]) -> None:
        model.free.set()
        request.set("of the first caller")
        await batcher(1)
        assert model.seen == [""]

    run(test)
