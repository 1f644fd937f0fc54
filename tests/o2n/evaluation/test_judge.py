"""Judging a task: every figure is there, means what it says, and the whole method is timed."""

from pathlib import Path

import numpy as np
import pytest

from o2n.evaluation import tasks
from o2n.evaluation.judge import BRANCHES, judge
from o2n.evaluation.speed import measure
from o2n.profiles import PAPER
from o2n.store import CategoryStore
from tests.helpers import QUICK


@pytest.fixture(scope="module")
def task() -> tasks.Task:
    return tasks.families("validation", 0, each=6)[0]


def test_the_plain_sum_is_what_a_profile_that_sums_finds(task: tasks.Task, tmp_path: Path) -> None:
    store, plain = CategoryStore(tmp_path.as_uri()), {"fusion": "sum", "alpha": PAPER.alpha, "beta": PAPER.beta}
    found = judge(task, 1, QUICK.model_copy(update=plain), store)
    assert (found.group, found.name, found.draw, found.seed) == (task.group, task.name, 1, 0)
    calibrated = judge(task, 1, QUICK.model_copy(update={"fusion": "calibrated"}), store)
    assert found.figures["fused"] == found.figures["plain sum"] == calibrated.figures["plain sum"]


def test_every_figure_is_there_and_a_number(task: tasks.Task, tmp_path: Path) -> None:
    figures = judge(task, 0, QUICK, CategoryStore(tmp_path.as_uri())).figures
    assert {"fused", *BRANCHES, "raw patches", "random weights", "pixel AUROC", "AUPRO", "error gone"} <= set(figures)
    assert all(np.isfinite(value) for value in figures.values())


def test_a_task_without_masks_has_no_figures_of_pixels(task: tasks.Task, tmp_path: Path) -> None:
    bare = tasks.Task(task.group, task.name, task.object_word, task.references, task.queries, task.labels)
    figures = judge(bare, 0, QUICK, CategoryStore(tmp_path.as_uri())).figures
    assert "fused" in figures
    assert not {"pixel AUROC", "AUPRO", "error gone", "SSIM outside"} & set(figures)


def test_times_are_those_of_one_category_and_one_picture(task: tasks.Task, tmp_path: Path) -> None:
    speed = measure(task, QUICK, CategoryStore(tmp_path.as_uri()), rounds=1)
    assert min(speed.onboarding, speed.in_batch, speed.alone) > 0
