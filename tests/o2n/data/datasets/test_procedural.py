"""The procedural families as a data set."""

from pathlib import Path

import numpy as np

from o2n.data.datasets import DATASETS
from o2n.data.procedural import EVALUATION
from o2n.evaluation import tasks
from tests.o2n.data.datasets.trees import check


def test_queries_are_those_of_the_tasks() -> None:
    loaded = DATASETS["families"].load(Path("nowhere"))
    assert [one.name for one in loaded] == list(EVALUATION)
    check(loaded[0])
    task = tasks.families("evaluation", 0)[0]
    assert [one.anomalous for one in loaded[0].queries] == task.labels.tolist()
    assert all((one.read() == asked).all() for one, asked in zip(loaded[0].queries, task.queries, strict=True))
    assert task.masks is not None
    drawn = [one.mask() if one.mask else np.zeros((64, 64), bool) for one in loaded[0].queries]
    assert (np.stack(drawn) == task.masks).all()
