"""Units: what is run, what is kept of it, and what its digest hangs on."""

import base64
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from o2n.data.datasets import DATASETS
from o2n.errors import DataSetError
from o2n.evaluation.baselines import _untrained
from o2n.evaluation.methods.anomaly_dino import AnomalyDINO
from o2n.evaluation.methods.one_to_normal import OneToNormal
from o2n.evaluation.metrics import auroc
from o2n.evaluation.plan import PlannedUnit, Protocol, missing, plan
from o2n.evaluation.protocol import OURS, UnitOutcome, _write_pool, build, digest, revision, run
from o2n.foundation import load_foundation
from o2n.images import decode
from o2n.profiles import TINY
from tests.helpers import QUICK, checks

FAMILIES = DATASETS["families"]
REVISIONS = {OURS: "1", "patchcore": "2"}


def planned(cache: Path, revisions: dict[str, str]) -> list[PlannedUnit]:
    category = FAMILIES.load(Path("nowhere"))[0]
    settings = Protocol(shots=(2,), draws=1, queries=8, pixels=64, pool=3, prompts=(0, QUICK.prompts))
    return plan([(FAMILIES, [category])], revisions, settings, QUICK, "weights", cache)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def runs(cache: Path) -> dict[str, PlannedUnit]:
    """One-to-Normal, PatchCore, and PatchCore with the pool, on one category and the same two shots."""
    found = planned(cache, REVISIONS)
    assert [(one.unit.method, one.unit.pool) for one in found] == [(OURS, 3), ("patchcore", 0), ("patchcore", 3)]
    return dict(zip(("ours", "alone", "pooled"), found, strict=True))


@pytest.fixture(scope="module")
def ours(runs: dict[str, PlannedUnit]) -> UnitOutcome:
    return run(runs["ours"].unit, QUICK, runs["ours"].pool)


def test_every_method_sees_the_same_pictures(runs: dict[str, PlannedUnit]) -> None:
    assert len({one.unit.references for one in runs.values()}) == 1
    assert len({one.unit.queries for one in runs.values()}) == 1
    assert runs["ours"].pool == runs["pooled"].pool
    assert runs["alone"].pool is None


def test_our_parts_are_the_branches_and_other_prompts(ours: UnitOutcome, runs: dict[str, PlannedUnit]) -> None:
    parts = {name: np.array(values) for name, values in ours.parts.items()}
    assert np.allclose(ours.scores, parts["S_P"] + QUICK.alpha * parts["S_N"] + QUICK.beta * parts["S_text"])
    # With as many prompts as the profile has it is the same S_P, computed anew; with the empty one another.
    assert parts[f"S_P, {QUICK.prompts} prompts"].tolist() == parts["S_P"].tolist()
    assert (parts["S_P, no text"] != parts["S_P"]).any()
    assert ours.labels == [sample.anomalous for sample in runs["ours"].unit.queries]
    assert ours.figures["AUROC"] == auroc(np.array(ours.scores), np.array(ours.labels))
    assert set(ours.figures) == {"AUROC", "AUPRC", "pixel AUROC", "AUPRO"}


def test_the_other_fusion_is_what_a_profile_that_fuses_so_finds(
    ours: UnitOutcome, runs: dict[str, PlannedUnit]
) -> None:
    unit = runs["ours"].unit
    summing = OneToNormal(QUICK.fused_as(TINY)).fit([sample.read() for sample in unit.references], unit.object_word)
    scores = summing.score([sample.read() for sample in unit.queries]).scores
    assert ours.parts["S_P + S_N + S_text, calibrated"] == pytest.approx(scores.tolist(), rel=1e-4, abs=1e-4)
    assert not np.allclose(scores, ours.scores)


@pytest.mark.parametrize("part", ["S_P, no text", "S_P + S_N + S_text, calibrated"])
def test_an_outcome_of_before_a_part_was_measured_is_not_known(
    ours: UnitOutcome, runs: dict[str, PlannedUnit], tmp_path: Path, part: str
) -> None:
    kept = replace(runs["ours"], file=tmp_path / "outcome.json")
    kept.file.write_text(ours.model_dump_json())
    assert kept.outcome() == ours
    parts = {name: values for name, values in ours.parts.items() if name != part}
    kept.file.write_text(ours.model_copy(update={"parts": parts}).model_dump_json())
    assert missing([kept]) == [kept]
    fewer = replace(kept, unit=replace(kept.unit, prompts=()))
    assert fewer.outcome()


def test_what_is_kept_to_be_looked_at(ours: UnitOutcome) -> None:
    (shown,) = ours.shown
    assert np.array(shown.anomaly_map).ndim == 2

    assert decode(base64.b64decode(shown.counterpart or "")).shape == (64, 64, 3)


def test_the_pool_is_added_to_the_references(ours: UnitOutcome, runs: dict[str, PlannedUnit]) -> None:
    pool = runs["pooled"].pool
    assert pool is not None
    with np.load(pool) as kept:
        assert kept["pictures"].shape == (3, 64, 64, 3)
    alone, pooled = (run(runs[name].unit, QUICK, runs[name].pool) for name in ("alone", "pooled"))
    assert (alone.pool, pooled.pool, pooled.added) == (0, 3, 3)
    assert alone.scores != pooled.scores
    assert alone.labels == ours.labels


def test_without_the_pool_the_unit_says_what_to_run(runs: dict[str, PlannedUnit], tmp_path: Path) -> None:
    with pytest.raises(DataSetError, match="the pool of these references is not there: run one-to-normal"):
        run(runs["pooled"].unit, QUICK, tmp_path / "none.npz")


def test_a_pool_may_be_of_no_pictures(runs: dict[str, PlannedUnit], tmp_path: Path) -> None:
    alone = run(runs["alone"].unit, QUICK, None)
    _write_pool(tmp_path / "none.npz", [])
    pooled = run(runs["pooled"].unit, QUICK, tmp_path / "none.npz")
    assert (pooled.scores, pooled.added) == (alone.scores, 0)


def test_the_pool_has_no_pictures_where_none_passes_for_good() -> None:
    """References so much alike that nothing drawn comes as near to them as they are to each other."""
    other = checks(0).copy()
    other[0, 0] ^= 1
    fitted = OneToNormal(QUICK).fit([checks(0), other], "board")
    assert fitted.pool(3) == []


def test_an_outcome_with_the_pool_hangs_on_how_the_pool_is_made(runs: dict[str, PlannedUnit], cache: Path) -> None:
    found = planned(cache, {**REVISIONS, OURS: "3"})
    same = [one.file == before.file for one, before in zip(found, runs.values(), strict=True)]
    assert same == [False, True, False]


def test_what_is_known_is_run_again_only_for_a_pool_that_is_gone_and_needed(
    ours: UnitOutcome, runs: dict[str, PlannedUnit], tmp_path: Path
) -> None:
    moved = {name: replace(one, file=tmp_path / name) for name, one in runs.items()}
    for name in ("ours", "pooled"):
        moved[name] = replace(moved[name], pool=tmp_path / "pool.npz")

    def left() -> set[str]:
        return {name for name, one in moved.items() if one in missing(list(moved.values()))}

    assert left() == {"ours", "alone", "pooled"}
    for name in ("ours", "alone"):
        moved[name].file.write_text(ours.model_dump_json())
    assert left() == {"ours", "pooled"}
    _write_pool(tmp_path / "pool.npz", [])
    assert left() == {"pooled"}
    (tmp_path / "pool.npz").unlink()
    moved["pooled"].file.write_text(ours.model_dump_json())
    assert left() == set()


def test_an_outcome_cut_off_counts_as_none(ours: UnitOutcome, runs: dict[str, PlannedUnit]) -> None:
    file = runs["ours"].file
    file.parent.mkdir(parents=True)
    text = ours.model_dump_json()
    file.write_text(text[: len(text) // 2])
    assert runs["ours"].outcome() is None
    file.write_text(text)
    assert runs["ours"].outcome() == ours


def test_the_digest_hangs_on_all_that_decides(runs: dict[str, PlannedUnit]) -> None:
    unit = runs["ours"].unit
    known = [
        digest(unit, QUICK, "weights", "1"),
        digest(unit, QUICK, "other weights", "1"),
        digest(unit, QUICK, "weights", "2"),
        digest(unit, QUICK.model_copy(update={"t": 0.3}), "weights", "1"),
        digest(replace(unit, method="patchcore"), QUICK, "weights", "1"),
        digest(replace(unit, references=unit.references[::-1]), QUICK, "weights", "1"),
        digest(replace(unit, queries=unit.queries[1:]), QUICK, "weights", "1"),
        digest(replace(unit, pixels=32), QUICK, "weights", "1"),
    ]
    assert len(set(known)) == len(known)
    assert digest(replace(unit, references=tuple(unit.references)), QUICK, "weights", "1") == known[0]


def test_another_methods_digest_hangs_on_what_it_can_see_of_the_profile(runs: dict[str, PlannedUnit]) -> None:
    def of(name: str, **change: object) -> str:
        return digest(runs[name].unit, QUICK.model_copy(update=change), "weights", "1")

    assert of("alone", t=0.3, alpha=3.0) == of("alone")
    assert of("pooled", t=0.3) != of("pooled")
    assert len({of("alone"), of("alone", seed=1), of("alone", patch_encoder=QUICK.encoder)}) == 3
    assert of("alone", pool=QUICK.pool.model_copy(update={"warps": 1})) != of("alone")


def test_a_revision_tells_weights_that_are_not_the_profiles() -> None:
    """What was trained here, and encoders that a user brings, decide outcomes too."""
    assert revision(build(OURS, QUICK)).isdigit()
    assert revision(build("patchcore", QUICK)).isdigit()
    encoder = load_foundation(QUICK).comparing
    methods = [AnomalyDINO("", encoder, (2,)), AnomalyDINO("", _untrained(), (2,)), AnomalyDINO("", encoder, (3,))]
    assert len({revision(method) for method in methods}) == 3
