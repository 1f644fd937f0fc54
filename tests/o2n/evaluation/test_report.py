"""What is written of an evaluation: as much as is known, and what made it."""

import base64
from pathlib import Path

import numpy as np
import pytest

from o2n.data.datasets import DATASETS
from o2n.data.datasets.base import DataSet, LabelledCategory
from o2n.evaluation.plan import PlannedUnit, Protocol, plan
from o2n.evaluation.protocol import OURS, Shown, UnitOutcome
from o2n.evaluation.report import about, report
from o2n.evaluation.times import Times
from o2n.images import encode_png
from tests.helpers import QUICK, checks

FAMILIES = DATASETS["families"]
SETTINGS = Protocol(shots=(2,), draws=1, queries=8, pixels=64, pool=0, prompts=())

Loaded = list[tuple[DataSet, list[LabelledCategory]]]


@pytest.fixture
def loaded(tmp_path: Path) -> Loaded:
    return [(FAMILIES, FAMILIES.load(tmp_path)[:1])]


@pytest.fixture
def runs(loaded: Loaded, tmp_path: Path) -> list[PlannedUnit]:
    return plan(loaded, {OURS: "1", "patchcore": "1"}, SETTINGS, QUICK, "weights", tmp_path)


def outcome(run: PlannedUnit) -> UnitOutcome:
    """As if pictures were told apart without a mistake, with one query to be looked at."""
    unit = run.unit
    labels = [sample.anomalous for sample in unit.queries]
    counterpart = base64.b64encode(encode_png(checks(0))).decode() if unit.method == OURS else None
    bad = next(sample.key for sample in unit.queries if sample.anomalous)
    return UnitOutcome(
        dataset=unit.dataset,
        category=unit.category,
        shots=unit.shots,
        draw=unit.draw,
        method=unit.method,
        title=unit.method,
        pool=0,
        labels=labels,
        scores=[float(label) for label in labels],
        parts={},
        figures={"AUROC": 1.0, "AUPRC": 1.0},
        shown=[Shown(key=bad, anomaly_map=np.eye(4).tolist(), counterpart=counterpart)],
    )


def test_all_that_is_known_has_its_table_or_picture(loaded: Loaded, runs: list[PlannedUnit]) -> None:
    times = Times(method=OURS, title=OURS, references=2, fit=1, alone=1, in_batch=1, processor="a CPU")
    found = report([outcome(run) for run in runs], [times], loaded, runs, QUICK, [("a fact", "is told")])
    assert found.title == "Evaluation of profile quick"
    assert [table.name for table in found.tables] == ["table-p-auroc", "table-p-auprc", "times"]
    assert [sheet.name for sheet in found.sheets] == ["figure-2-families.png", "figure-3-families.png"]
    assert all(FAMILIES.title in sheet.caption for sheet in found.sheets)
    assert found.facts == (("a fact", "is told"),)


def test_what_is_not_known_is_left_out(loaded: Loaded, runs: list[PlannedUnit]) -> None:
    found = report([], [], loaded, runs, QUICK, [])
    assert (found.tables, found.sheets) == ((), ())
    of_another = [outcome(run) for run in runs if run.unit.method == "patchcore"]
    assert not report(of_another, [], loaded, runs, QUICK, []).sheets


WEIGHTS = {
    None: {"encoder": "sha256 1234"},
    "visa.safetensors": {"encoder": "sha256 1234", "linear maps": "sha256 5678"},
}


def test_what_made_the_figures_is_told(loaded: Loaded, runs: list[PlannedUnit]) -> None:
    revisions = {OURS: "3", "regad": "2 of its own"}
    machines = zip(runs * 2, ["A", "B", "B", ""], strict=True)
    known = [outcome(one).model_copy(update={"processor": machine}) for one, machine in machines]
    told = dict(about(loaded, SETTINGS, QUICK, WEIGHTS, revisions, known, {"CPU": 2.0}))
    assert told["protocol"].startswith("shots 2; 1 draw; at most 8 queries of a category")
    category = loaded[0][1][0]
    assert told[FAMILIES.title] == (
        f"1 category, {len(category.normals)} good pictures to draw from, {len(category.queries)} queries"
    )
    assert told["weights of the encoder"] == "sha256 1234"
    assert told["profile"] == QUICK.model_dump_json()
    assert [label for label in told if label.endswith("weights")] == ["regad's own weights"]
    assert told["weights of the linear maps with visa.safetensors"] == "sha256 5678"
    assert told["regad's own weights"] == "of its own"
    assert told["computed on"] == "B: 2 units; A: 1 unit; a machine that was not kept: 1 unit"
    assert told["written on"].endswith("Ray had 2 CPUs, 0 GPUs")
    assert "torch " in told["versions"]
    everything = dict(about(loaded, Protocol(shots=(2, 4), draws=5), QUICK, WEIGHTS, {}, [], {}))
    assert everything["protocol"].startswith("shots 2, 4; 5 draws; all queries; maps and masks at 256 × 256")
