"""Many categories on a real Ray: who is lost comes back, who is always lost is told, and the others are published."""

import threading
from contextlib import suppress
from functools import partial
from pathlib import Path

import psutil
import pytest
import ray

from o2n.fanout import MAX_LOSSES, Outcome, State, fan_out, fits
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
