"""Many categories onboarded side by side on a Ray cluster.

A crew of actors takes one category after another, so that each loads the models once, on a GPU too, where Ray ends a
task's process with the task. A category whose worker is lost goes back to those that wait; what it had finished is in
the store. Never more is in flight than there are workers.
"""

import asyncio
import re
from collections import Counter, deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import ActorDiedError, RayError, RayTaskError

from o2n.category_worker import CategoryWorker, Failure, Outcome, Work
from o2n.sources import Source
from o2n.store import CategoryStore

TICK_SECONDS = 0.5
MAX_LOSSES = 3  # workers that one category may take with it, pre-empted ones not counted
MAX_FALSE_STARTS = 20  # workers in a row that never came up, at least, while none was at work

# Until a worker is past these, it may be drawing the pictures that all categories of a class share.
_BEFORE_ADAPTER = ("starting", "reading", "loading", "prior")


@dataclass
class Running:
    """A category that a worker is at, the stage, and the share of it that is done."""

    source: Source
    stage: str = "starting"
    share: float = 0.0


@dataclass(frozen=True)
class State:
    """How far a run is, for whoever tells of it."""

    total: int
    waiting: int
    running: list[Running]
    done: list[Outcome]
    losses: list[str]  # for each worker that was lost, which category it was at, and how


def fan_out(
    work: Work,
    sources: list[Source],
    store: CategoryStore,
    *,
    cpus: float,
    gpus: float,
    workers: int | None = None,
    tell: Callable[[State], None] = lambda state: None,
) -> list[Outcome]:
    """Do one piece of work for every category, as many side by side as the cluster has room for, now and as it grows.

    Work: "onboard"; "preview" says what onboarding would do, and writes nothing; "measure" onboards into a scratch
    store and tells the times. A category's failure is its outcome. So is the loss of its worker, once it lost
    `MAX_LOSSES`; the pre-emption of a node counts for nothing.

    Args:
        cpus, gpus: what each worker takes, cores and GPUs; a fraction of a GPU lets several share one.
        workers: at most so many; by default as many as the nodes have room for, and at least one, which makes a
            cluster that scales itself start its first node.
        tell: called every `TICK_SECONDS`, and at the end.

    Returns: an outcome for each category, in their order.
    """
    run = _Run(work, sources, store, cpus, gpus, workers, tell)
    asyncio.run(run.all())
    places = {source.name: place for place, source in enumerate(sources)}
    return sorted(run.done, key=lambda outcome: places[outcome.category])


def room(cpus: float, gpus: float) -> int:
    """How many workers the cluster's nodes have room for, whatever else is on them."""
    return sum(fits(node["Resources"], cpus, gpus) for node in ray.nodes() if node["Alive"])


def fits(resources: dict[str, float], cpus: float, gpus: float) -> int:
    """How many workers of `cpus` and `gpus` a node of Ray's resources has room for; no worker spans parts of GPUs."""
    by_cpu = int(resources.get("CPU", 0) / cpus + 1e-9)
    if not gpus:
        return by_cpu
    have = int(resources.get("GPU", 0))
    return min(by_cpu, have * int(1 / gpus + 1e-9) if gpus <= 1 else int(have / gpus))


class _Run:
    def __init__(
        self,
        work: Work,
        sources: list[Source],
        store: CategoryStore,
        cpus: float,
        gpus: float,
        workers: int | None,
        tell: Callable[[State], None],
    ) -> None:
        self._wanted, self._store, self._tell = work, store, tell
        self._room = (lambda: workers) if workers else (lambda: max(1, room(cpus, gpus)))
        # Two threads: one works, the other says how far it is.
        self._worker = ray.remote(num_cpus=cpus, num_gpus=gpus, max_concurrency=2, scheduling_strategy="SPREAD")(
            CategoryWorker
        )
        self._total = len(sources)
        self._waiting = deque(sources)
        self._class = {source.name: (source.profile.model_dump_json(), source.word) for source in sources}
        self._running: dict[str, Running] = {}
        self.done: list[Outcome] = []
        self._losses: Counter[str] = Counter()
        self._preemptions: Counter[str] = Counter()
        self._told_losses: list[str] = []
        self._false_starts = 0
        self._drawn: set[tuple[str, str]] = set()

    async def all(self) -> None:
        """Keep as many workers at it as there is work and room for, and replace those that are lost."""
        async with asyncio.TaskGroup() as group:
            crew: set[asyncio.Task[None]] = set()
            while self._waiting or self._running:
                crew = {work for work in crew if not work.done()}
                wanted = min(self._room(), len(self._waiting) + len(self._running))
                crew.update(group.create_task(self._work()) for _ in range(wanted - len(crew)))
                self._tell(self._state())
                await asyncio.sleep(TICK_SECONDS)
            for work in crew:  # those that Ray has found no place for
                work.cancel()
        self._tell(self._state())

    async def _work(self) -> None:
        """One worker's life: a category after another, until none waits or it is lost."""
        worker = self._worker.remote(self._store)
        source: Source | None = None
        try:
            await worker.stage.remote()
            self._false_starts = 0
            while self._waiting:
                source = self._take()
                if source is None:
                    await asyncio.sleep(TICK_SECONDS)
                    continue
                running = self._running[source.name] = Running(source)
                watch = asyncio.create_task(_watch(worker, running))
                try:
                    outcome = await worker.run.remote(self._wanted, source)
                finally:
                    watch.cancel()
                self._finish(source, outcome)
        except RayError as error:
            self._lose(source, error)
        finally:
            ray.kill(worker)

    def _take(self) -> Source | None:
        """The next category; of each class only one, until the pictures are drawn that all of the class share."""
        drawing: set[tuple[str, str]] = set()
        for name, running in self._running.items():
            (drawing if running.stage in _BEFORE_ADAPTER else self._drawn).add(self._class[name])
        for place, source in enumerate(self._waiting):
            if self._class[source.name] not in drawing - self._drawn:
                del self._waiting[place]
                return source
        return None

    def _finish(self, source: Source, outcome: Outcome) -> None:
        del self._running[source.name]
        if outcome.status != "failed":
            self._drawn.add(self._class[source.name])
        self._end(source, outcome)

    def _lose(self, source: Source | None, error: RayError) -> None:
        preempted = isinstance(error, ActorDiedError) and error.preempted
        cause = "its node was taken away" if preempted else _cause(error)
        if source is None:
            self._false_starts += not preempted and not self._running
            # One node on which none comes up is no reason to give up while others work, or are still coming up.
            if not self._running and self._false_starts >= max(MAX_FALSE_STARTS, 3 * self._room()):
                while self._waiting:
                    self._fail(self._waiting.popleft(), f"no worker can be started: {cause}")
            return
        del self._running[source.name]
        self._told_losses.append(f"{source.name}: its worker was lost: {cause}")
        (self._preemptions if preempted else self._losses)[source.name] += 1
        if self._losses[source.name] < MAX_LOSSES:
            self._waiting.appendleft(source)
        else:
            self._fail(source, f"its worker was lost {MAX_LOSSES} times, the last time so: {cause}")

    def _fail(self, source: Source, message: str) -> None:
        error = Failure(code="worker", message=f"{message}: see Ray's dashboard")
        self._end(source, Outcome(category=source.name, status="failed", error=error))

    def _end(self, source: Source, outcome: Outcome) -> None:
        lost = self._losses[source.name] + self._preemptions[source.name]
        self.done.append(outcome.model_copy(update={"lost_workers": lost}))

    def _state(self) -> State:
        return State(self._total, len(self._waiting), [*self._running.values()], [*self.done], [*self._told_losses])


def _cause(error: RayError) -> str:
    """What ended a worker, without Ray's advice and ids."""
    if isinstance(error, RayTaskError):
        return f"{type(error.cause).__name__}: {error.cause}"[:300]
    lines = str(error).strip().splitlines()
    if lines and "creation task" in lines[0]:  # of a whole traceback the last line says what it was
        return lines[-1].strip()[:300]
    text = " ".join(str(error).split())
    text = text.partition("Worker exit detail: ")[2] or text
    return re.split(r" Some common causes| class_name: | Lease ID", text)[0][:300]


async def _watch(worker: Any, running: Running) -> None:
    with suppress(RayError):  # whoever waits for the worker's result hears of it
        while True:
            category, stage, share = await worker.stage.remote()
            if category == running.source.name:  # and not yet the one before
                running.stage, running.share = stage, share
            await asyncio.sleep(TICK_SECONDS)
