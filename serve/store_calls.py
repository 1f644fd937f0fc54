"""Calls that read or write the store, in threads of their own: one that hangs for minutes stops nothing else.

The event loop's own threads, of which Ray Serve gives a replica no more than five, are for decoding and computing.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from typing import TypeVar

# As many as S3's client keeps connections: one more would open a new one for each of its calls.
THREADS = 10

T = TypeVar("T")

_threads = ThreadPoolExecutor(THREADS, thread_name_prefix="store")


async def store_call(function: Callable[..., T], *arguments: object) -> T:
    """`asyncio.to_thread` for what needs the store; who gives up before it is begun leaves it undone."""
    run = copy_context().run
    return await asyncio.get_running_loop().run_in_executor(_threads, lambda: run(function, *arguments))
