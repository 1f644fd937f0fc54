"""Many categories on a real Ray: who is lost comes back, who is always lost is told, and the others are published."""

import threading
import uuid
from contextlib import suppress
from functools import partial
from pathlib import Path

import psutil
import pytest
import ray

from o2n.category_worker import CategoryWorker, Outcome
from o2n.fanout import MAX_LOSSES, State, fan_out, fits
from o2n.sources import Source
from o2n.store import CategoryStore
from tests.helpers import QUICK, checks, wait_until, write


@pytest.mark.parametrize(
    ("resources", "cpus", "gpus", "count"),
    [
        ({"CPU": 4.0}, 1, 0, 4),
        ({"CPU": 4.0}, 1.5, 0, 2),
        ({"CPU": 4.0}, 0.1, 0, 40),
        ({"CPU": 4.0}, 1, 0.5, 0),
        ({"CPU": 16.0, "GPU": 2.0}, 1, 0.5, 4),
        ({"CPU": 16.0, "GPU": 2.0}, 1, 0.3, 6),
        ({"CPU": 3.0, "GPU": 2.0}, 1, 0.5, 3),
        # What is left of two GPUs is no third part of 0.7.
        ({"CPU": 16.0, "GPU": 2.0}, 1, 0.7, 2),
        ({"CPU": 16.0, "GPU": 4.0}, 1, 2, 2),
        ({"memory": 1.0}, 1, 0, 0),
    ],
)
def test_what_a_node_has_room_for(resources: dict[str, float], cpus: float, gpus: float, count: int) -> None:
    assert fits(resources, cpus, gpus) == count


def worker_lost(states: list[State], losses: int) -> bool:
    """Kills the worker that has a category, until that is known; one that only starts would have none to lose."""
    if states and states[-1].running and len(states[-1].losses) == losses:
        for process in psutil.Process().children(recursive=True):
            with suppress(psutil.Error):
                if "".join(process.cmdline()).startswith("ray::CategoryWorker"):
                    process.kill()
    return bool(states) and len(states[-1].losses) > losses


class Rare(CategoryWorker):
    """A worker that comes up only where it is the first of as many as the store's folder has room for."""

    def __init__(self, store: CategoryStore) -> None:
        super().__init__(store)
        self._folder = Path(store.url.removeprefix("file://"))
        room = self._folder / "room"
        if not room.exists():
            (self._folder / f"false-{uuid.uuid4().hex}").touch()
            raise RuntimeError("the package is not on this node")
        room.unlink()

    def onboard(self, source: Source) -> Outcome:
        wait_until(lambda: len(list(self._folder.glob("false-*"))) > 8, "false starts")
        return Outcome(category=source.name, status="published")


@pytest.mark.cluster
@pytest.mark.parametrize("healthy", [True, False])
def test_nodes_on_which_no_worker_comes_up_end_a_run_only_where_no_other_is_at_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, healthy: bool
) -> None:
    monkeypatch.setattr("o2n.fanout.CategoryWorker", Rare)
    monkeypatch.setattr("o2n.fanout.MAX_FALSE_STARTS", 2)
    if healthy:
        (tmp_path / "room").touch()
    wanted = [
        Source(name, "nowhere", QUICK, word) for name, word in (("one", "bolt"), ("two", "nut"), ("three", "cap"))
    ]
    ray.init(address="local", num_cpus=1, include_dashboard=False, logging_level="warning")
    try:
        done = fan_out("onboard", wanted, CategoryStore(tmp_path.as_uri()), cpus=0.1, gpus=0, workers=2)
    finally:
        ray.shutdown()
    assert {outcome.status for outcome in done} == {"published" if healthy else "failed"}
    for outcome in done if not healthy else ():
        assert outcome.error is not None
        assert "no worker can be started: RuntimeError: the package is not on this node" in outcome.error.message


@pytest.mark.cluster
def test_a_category_that_always_loses_its_worker_is_told_and_the_next_is_published(tmp_path: Path) -> None:
    store = CategoryStore((tmp_path / "store").as_uri())
    wanted = [
        Source(name, str(write(tmp_path / name, [checks(seed), checks(seed + 1)])), QUICK)
        for name, seed in (("doomed", 0), ("lucky", 2))
    ]
    states: list[State] = []
    done: list[Outcome] = []
    ray.init(address="local", num_cpus=1, include_dashboard=False, logging_level="warning")
    try:
        run = threading.Thread(
            target=lambda: done.extend(fan_out("onboard", wanted, store, cpus=1, gpus=0, tell=states.append))
        )
        run.start()
        for losses in range(MAX_LOSSES):
            wait_until(partial(worker_lost, states, losses), "lost worker")
        run.join(300)
    finally:
        ray.shutdown()
    doomed, lucky = done
    assert doomed.error is not None
    assert (doomed.error.code, doomed.lost_workers) == ("worker", MAX_LOSSES)
    assert f"its worker was lost {MAX_LOSSES} times" in doomed.error.message
    assert "\n" not in doomed.error.message
    assert (lucky.status, lucky.lost_workers) == ("published", 0)
    assert store.categories() == ["lucky"]
    assert max(len(state.running) for state in states) == 1  # one core, one at a time
    assert len(states[-1].losses) == MAX_LOSSES
