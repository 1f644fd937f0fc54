"""How long methods take: measured once on each processor, of each method once, and kept."""

from pathlib import Path

import pytest

from o2n.category import VersionRef
from o2n.data.datasets import DATASETS
from o2n.evaluation.plan import PlannedUnit, Protocol, plan
from o2n.evaluation.protocol import OURS, Unit
from o2n.evaluation.times import BATCH, ROUNDS, Times, measure, take_times, times_table
from o2n.fusion import Compared
from o2n.images import Picture
from o2n.triplet import TripletScorer
from tests.helpers import QUICK

FAMILIES = DATASETS["families"]


@pytest.fixture
def runs(tmp_path: Path) -> list[PlannedUnit]:
    """Two draws of two categories by PatchCore, alone and with the pool, and by One-to-Normal."""
    settings = Protocol(shots=(2,), draws=2, queries=8, pixels=64, pool=3, prompts=())
    loaded = [(FAMILIES, FAMILIES.load(tmp_path)[:2])]
    return plan(loaded, {"patchcore": "1", OURS: "1"}, settings, QUICK, "weights", tmp_path)


class Clock:
    """Measures on `processor`, or, with none, nothing; and remembers what."""

    def __init__(self, processor: str | None) -> None:
        self.processor, self.asked = processor, list[Unit]()

    def __call__(self, unit: Unit) -> Times | None:
        self.asked.append(unit)
        if self.processor is None:
            return None
        return Times(
            method=unit.method,
            title=unit.method.title(),
            references=len(unit.references),
            fit=1.0,
            alone=0.02,
            in_batch=0.01,
            processor=self.processor,
        )


def test_each_method_is_measured_once_alone_on_the_first_category(runs: list[PlannedUnit]) -> None:
    clock = Clock("a CPU")
    found = take_times(runs, "a CPU", clock)
    assert [one.method for one in found] == [OURS, "patchcore"]
    ours, patchcore = sorted(clock.asked, key=lambda unit: unit.method)
    assert (ours, patchcore) == (runs[0].unit, next(one.unit for one in runs if one.unit.method == "patchcore"))
    assert patchcore.pool == 0
    again = Clock("a CPU")
    assert take_times(runs, "a CPU", again) == found
    assert not again.asked


def test_another_processor_is_measured_anew_and_else_told(runs: list[PlannedUnit]) -> None:
    before = take_times(runs, "a CPU", Clock("a CPU"))
    assert take_times(runs, "a GPU", Clock(None)) == before
    assert "of a CPU, medians" in times_table(before).note
    after = take_times(runs, "a GPU", Clock("a GPU"))
    assert {one.processor for one in after} == {"a GPU"}
    assert take_times(runs, "a CPU", Clock(None)) == after  # the newest is kept


def test_what_was_never_measured_or_is_damaged_has_no_row(runs: list[PlannedUnit], tmp_path: Path) -> None:
    assert take_times(runs, "a CPU", Clock(None)) == []
    take_times(runs, "a CPU", Clock("a CPU"))
    for file in (tmp_path / "times").iterdir():
        file.write_text(file.read_text()[:40])
    assert take_times(runs, "a CPU", Clock(None)) == []


def test_a_unit_is_measured_on_its_own_pictures(runs: list[PlannedUnit]) -> None:
    found = measure(next(one.unit for one in runs if one.unit.method == "patchcore"), QUICK)
    assert (found.method, found.title, found.references) == ("patchcore", "PatchCore", 2)
    assert min(found.fit, found.alone, found.in_batch) > 0
    (row,) = times_table([found]).rows
    assert row.labels == ("PatchCore",)
    assert row.cells[-1] is None


def test_the_papers_time_is_told_and_what_share_of_it_this_is(runs: list[PlannedUnit]) -> None:
    found = take_times(runs, "a CPU", Clock("a CPU"))
    assert [row.cells[-1] for row in times_table(found).rows] == ["326 ms, here 6% of it", None]


def test_ours_is_computed_every_time_it_is_timed(runs: list[PlannedUnit], monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[int] = []

    def compare(scorer: TripletScorer, pictures: list[Picture], refs: list[VersionRef]) -> list[Compared]:
        compared.append(len(pictures))
        return original(scorer, pictures, refs)

    original = TripletScorer.compare
    monkeypatch.setattr(TripletScorer, "compare", compare)
    unit = next(one.unit for one in runs if one.unit.method == OURS)
    measure(unit, QUICK)
    assert compared == [1] * (1 + ROUNDS) + [min(BATCH, len(unit.queries))] * (1 + ROUNDS)
