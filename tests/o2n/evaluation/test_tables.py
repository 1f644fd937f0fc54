"""Outcomes to tables: what a figure is the mean of, and what it is held against."""

import numpy as np
import pytest

from o2n.data.datasets import DATASETS
from o2n.evaluation.protocol import UnitOutcome
from o2n.evaluation.tables import Figure, Outcomes, Table, all_tables
from o2n.profiles import TINY

MVTEC = DATASETS["mvtec"]


def outcome(category: str, draw: int, value: float, method: str = "one-to-normal", **others: object) -> UnitOutcome:
    fields = {
        "dataset": "mvtec",
        "category": category,
        "shots": 8,
        "draw": draw,
        "method": method,
        "title": {"one-to-normal": "One-to-Normal", "patchcore": "PatchCore"}[method],
        "pool": 0,
        "labels": [False, True],
        "scores": [0.0, 1.0],
        "parts": {},
        "figures": {"AUROC": value, "AUPRC": value},
    }
    return UnitOutcome.model_validate(fields | others)


def tables(known: list[UnitOutcome], size: int = 2) -> dict[str, Table]:
    made = all_tables(Outcomes(known, {"mvtec": size}), [MVTEC], TINY)
    return {table.name: table for table in made}


def figure(table: Table, column: str, row: int = 0) -> Figure:
    cell = table.rows[row].cells[table.heads.index(column) - len(table.rows[row].labels)]
    assert isinstance(cell, Figure)
    return cell


def test_the_mean_of_draws_each_the_mean_of_categories() -> None:
    known = [outcome("a", 0, 0.7), outcome("b", 0, 0.9), outcome("a", 1, 0.8), outcome("b", 1, 1.0)]
    found = figure(tables(known)["table-1-auroc"], "One-to-Normal")
    assert (found.mean, found.deviation, found.draws) == (pytest.approx(85), pytest.approx(5), 2)
    one = figure(tables([outcome("a", 0, 0.9)], size=1)["table-1-auroc"], "One-to-Normal")
    assert (one.mean, one.deviation, one.draws) == (pytest.approx(90), None, 1)


def test_a_draw_that_lacks_a_category_does_not_count() -> None:
    known = [outcome("a", 0, 0.7), outcome("b", 0, 0.9), outcome("a", 1, 0.1)]
    found = figure(tables(known)["table-1-auroc"], "One-to-Normal")
    assert (found.mean, found.draws) == (pytest.approx(80), 1)
    assert not tables(known, size=15)


def test_what_stands_side_by_side_is_of_the_same_draws() -> None:
    known = [outcome("a", 0, 0.7), outcome("a", 0, 0.6, "patchcore"), outcome("a", 1, 0.9, "patchcore")]
    table = tables(known, 1)["table-1-auroc"]
    found = figure(table, "PatchCore")
    assert (found.mean, found.draws) == (pytest.approx(60), 1)
    assert table.rows[0].cells[1] == "+10.0"
    alone = figure(tables(known[1:], 1)["table-1-auroc"], "PatchCore")
    assert (alone.mean, alone.draws) == (pytest.approx(75), 2)


def test_the_papers_figure_and_the_difference() -> None:
    known = [outcome("a", 0, 0.9), outcome("a", 0, 0.95, "patchcore")]
    table = tables(known, 1)["table-1-auroc"]
    ours, theirs = figure(table, "One-to-Normal"), figure(table, "PatchCore")
    assert (ours.against, ours.against_deviation, ours.difference) == (96.2, 0.8, pytest.approx(-6.2))
    assert (theirs.against, theirs.difference) == (92.2, pytest.approx(2.8))
    assert table.heads[2:] == ("One-to-Normal", "over the best other", "PatchCore")
    assert table.rows[0].cells[1] == "-5.0"


def test_branches_are_summed_with_the_profiles_weights() -> None:
    """Of every set of them: the seven rows of the paper's table 4."""
    rng = np.random.default_rng(3)
    labels, drawn = np.arange(40) >= 20, rng.normal(size=(3, 40))
    parts = {name: values.tolist() for name, values in zip(("S_P", "S_N", "S_text"), drawn, strict=True)}
    known = [outcome("a", 0, 0.5, labels=labels.tolist(), scores=[0.0] * 40, parts=parts)]
    table = tables(known, 1)["table-4-8-shots"]
    found = {row.labels[0]: row.cells[0].mean for row in table.rows if isinstance(row.cells[0], Figure)}
    weighted = dict(zip(parts, drawn * [[1], [TINY.alpha], [TINY.beta]], strict=True))
    assert set(found) == {
        *("S_P", "S_N", "S_text"),
        *("S_P + S_N", "S_P + S_text", "S_N + S_text", "S_P + S_N + S_text"),
    }
    for name, value in found.items():
        total = sum(weighted[part] for part in name.split(" + "))
        ranked = total[labels][:, None] > total[~labels]
        assert value == pytest.approx(100 * ranked.mean())
    assert len(set(found.values())) > 4
    text = next(row.cells[0] for row in table.rows if row.labels == ("S_text",))
    assert isinstance(text, Figure)
    assert text.against == 91.8


def test_the_fusion_that_the_profile_has_not_chosen_is_the_last_row() -> None:
    other = {"S_P + S_N + S_text, as they are": [2.0, 1.0]}
    parts = {name: [0.0, 1.0] for name in ("S_P", "S_N", "S_text")}
    known = [outcome("a", 0, 1.0, parts=parts | other), outcome("a", 0, 1.0, parts=parts, shots=2)]
    made = tables(known, 1)
    means = {row.labels[0]: row.cells[0].mean for row in made["table-4-8-shots"].rows}
    assert means == dict.fromkeys(means, 100) | {"S_P + S_N + S_text, as they are": 0}
    assert "in the last row with α = 1 and β = 0.5, as they are" in made["table-4-8-shots"].note
    assert "last row" not in made["table-4-2-shots"].note
    assert [row.labels for row in made["table-4-2-shots"].rows] == [(name,) for name in means if "," not in name]


def test_prompts_change_one_branch_of_the_sum() -> None:
    parts = {"S_P": [1.0, 1.0], "S_N": [0.0, 0.0], "S_text": [0.0, 0.0], "S_P, no text": [2.0, 0.0]}
    known = [outcome("a", 0, 1.0, scores=[1.0, 2.0], parts=parts | {"S_P, 10 prompts": [0.0, 1.0]})]
    table = tables(known, 1)["table-5-8-shots"]
    found = {row.labels[0]: row.cells[0] for row in table.rows}
    means = {label: cell.mean for label, cell in found.items() if isinstance(cell, Figure)}
    assert means == {"no text": 0, "refined text": 100, "10 prompts": 100}
    refined = found["refined text"]
    assert isinstance(refined, Figure)
    assert refined.against == 96.2
    alone = TINY.model_copy(update={"branches": ("S_N",)})  # other counterparts change nothing in it
    assert "table-5-8-shots" not in {one.name for one in all_tables(Outcomes(known, {"mvtec": 1}), [MVTEC], alone)}


def test_the_pool_is_held_against_the_method_without_it() -> None:
    known = [
        outcome("a", 0, 0.5),
        outcome("a", 0, 0.8, "patchcore"),
        outcome("a", 0, 0.9, "patchcore", pool=20, added=7),
    ]
    made = tables(known, 1)
    assert made["figure-4"].rows[0].labels[-1] == "7.0"
    found = figure(made["figure-4"], "PatchCore")
    assert (found.mean, found.against, found.difference) == (90, 80, pytest.approx(10))
    assert made["figure-4"].against == "without"
    assert made["figure-4"].note.endswith("on OCT2017 PatchCore +10.9, RegAD +8.6.")
    assert "RegAD +6.8, +8.7, +10.2 with 2, 4, 8 shots" in made["figure-4"].note
    assert figure(made["table-1-auroc"], "PatchCore").mean == 80


def test_nothing_known_makes_no_tables() -> None:
    assert not tables([])
