"""What a run will take: only from stages that were timed, with the same profile on the same kind of machine."""

from pathlib import Path

import pytest

from o2n.category_worker import Outcome
from o2n.device import describe_machine, pick_device
from o2n.estimate import estimate, recorded
from o2n.making import STAGES
from o2n.onboard import onboard
from o2n.sources import Source
from o2n.store import CategoryStore
from tests.helpers import QUICK, checks, stripes

SECONDS = dict.fromkeys(STAGES, 1.0) | {"prior": 10.0, "loading": 5.0}


def source(name: str, word: str) -> Source:
    return Source(name, "x", QUICK, word)


def preview(name: str, *missing: str) -> Outcome:
    return Outcome(category=name, status="new", missing=list(missing))


def test_the_pictures_of_a_class_are_drawn_once_and_finished_stages_cost_nothing() -> None:
    wanted = [source("a", "bolt"), source("b", "bolt"), source("c", "nut"), source("d", "nut"), source("e", "nut")]
    previews = [
        preview("a", *STAGES),
        preview("b", *STAGES),
        preview("c", "scales", "normals", "distances", "calibration"),
        preview("d"),
        Outcome(category="e", status="failed"),
    ]
    found = estimate(wanted, previews, SECONDS, "what", workers=2, cpus=2, gpus=0.5)
    others = len(STAGES) - 1
    work = (10 + others) + others + 4
    assert found.worker_seconds == work + 2 * 5
    assert found.seconds == 5 + max(10 + others, work / 2)
    assert found.core_hours == pytest.approx(2 * found.worker_seconds / 3600)
    assert found.gpu_hours == pytest.approx(found.worker_seconds / 2 / 3600)
    assert (found.workers, found.rests_on) == (2, "what")


def test_nobody_waits_for_more_workers_than_there_is_work() -> None:
    found = estimate([source("a", "x")], [preview("a", "adapter")], SECONDS, "", workers=50, cpus=1, gpus=0)
    assert (found.workers, found.seconds, found.worker_seconds) == (1, 6.0, 6.0)


def test_times_are_those_that_versions_of_the_same_kind_recorded(tmp_path: Path) -> None:
    store, machine = CategoryStore(tmp_path.as_uri()), describe_machine(pick_device())
    onboard("checks", [checks(0), checks(1)], QUICK, store)
    onboard("stripes", [stripes(0), stripes(1)], QUICK, store)
    seconds, versions = recorded(store, QUICK.model_copy(update={"name": "another name"}), machine)
    assert set(seconds) == set(STAGES)
    assert min(seconds.values()) > 0
    assert versions == 2
    assert recorded(store, QUICK.model_copy(update={"prompts": 3}), machine) == ({}, 0)
    assert recorded(store, QUICK, "another machine") == ({}, 0)
