"""Judging a task: every figure is there, means what it says, and the whole method is timed."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from o2n import images
from o2n.evaluation import tasks
from o2n.evaluation.judge import BRANCHES, _smaller, judge
from o2n.evaluation.metrics import masked_error, ssim_outside
from o2n.evaluation.speed import measure
from o2n.profiles import PAPER
from o2n.store import CategoryStore
from o2n.triplet import TripletScorer
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


def test_counterparts_larger_than_the_masks_are_measured_at_the_masks_size(task: tasks.Task, tmp_path: Path) -> None:
    assert task.masks is not None
    assert task.twins is not None
    masks, side = _smaller(task.masks, 32), 32
    assert QUICK.diffusion.resolution > side
    store = CategoryStore(tmp_path.as_uri())
    figures = judge(dataclasses.replace(task, masks=masks), 0, QUICK, store).figures
    ref = store.current(f"{task.name}-0-0")
    drawn = [one.counterpart for one in TripletScorer(QUICK, store).score(task.queries, [ref] * len(task.queries))]
    counterparts, queries, twins = (
        np.stack([images.resize(picture, side) for picture in pictures]).astype(np.float32) / 255
        for pictures in (drawn, task.queries, task.twins)
    )
    assert figures["SSIM outside"] == pytest.approx(ssim_outside(counterparts, queries, masks).mean())
    bad = masks.any(axis=(1, 2))
    after, before = (masked_error(one[bad], twins[bad], masks[bad]).mean() for one in (counterparts, queries))
    assert figures["error gone"] == pytest.approx(1 - after / before)


@pytest.mark.parametrize("side", [128, 64, 48])
def test_a_smaller_mask_has_all_that_a_defect_touches(side: int) -> None:
    masks = np.zeros((3, 128, 128), bool)
    masks[0, 127, 0] = masks[1, 40:80, 60:61] = True
    found = _smaller(masks, side)
    assert (found.shape, found.dtype) == ((3, side, side), bool)
    assert found[0].sum() == 1
    assert found[0, -1, 0]
    rows, columns = np.nonzero(found[1])
    scale = side / 128
    assert (rows.min(), rows.max()) == (int(40 * scale), int(79 * scale))
    assert int(60 * scale) in columns
    assert not found[2].any()


def test_times_are_those_of_one_category_and_one_picture(task: tasks.Task, tmp_path: Path) -> None:
    speed = measure(task, QUICK, CategoryStore(tmp_path.as_uri()), rounds=1)
    assert min(speed.onboarding, speed.in_batch, speed.alone) > 0
