"""Batches of what is waiting whenever the model is free. Knows nothing of what it runs.

`serve.batch` closes a batch a fixed time after its first item, busy or not: alone, every picture waits out that time
for nothing, and under load the small batches of each such moment queue up one behind the other. Here nobody waits for
company, and what comes while the model works goes together through the next batch.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from contextvars import Context
from typing import Generic, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


class Batcher(Generic[Item, Result]):
    """`await batcher(item)` -> its result, computed along with others that wait, in the order they came."""

    def __init__(self, run: Callable[[list[Item]], Awaitable[list[Result]]], largest: int) -> None:
        """Args: run: called with 1 to `largest` items, never twice at a time; as many results, in the same order."""
        self._run, self._largest = run, largest
        self._waiting: deque[tuple[Item, asyncio.Future[Result]]] = deque()
        self._worker: asyncio.Task[None] | None = None

    async def __call__(self, item: Item) -> Result:
        """Raises: whatever `run` raises for the batch that the item is in."""
        future: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self._waiting.append((item, future))
        if self._worker is None:
            # In a context of its own: a batch is no one request's, and must not be logged or cancelled as one.
            self._worker = asyncio.create_task(self._work(), context=Context())
        return await future

    async def _work(self) -> None:
        while batch := self._next():
            try:
                results = await self._run([item for item, _ in batch])
                for (_, future), result in zip(batch, results, strict=True):
                    if not future.done():
                        future.set_result(result)
            except Exception as error:
                for _, future in batch:
                    if not future.done():
                        future.set_exception(error)
        self._worker = None

    def _next(self) -> list[tuple[Item, "asyncio.Future[Result]"]]:
        """The next items whose callers still wait."""
        batch: list[tuple[Item, asyncio.Future[Result]]] = []
        while self._waiting and len(batch) < self._largest:
            item, future = self._waiting.popleft()
            if not future.done():
                batch.append((item, future))
        return batch
