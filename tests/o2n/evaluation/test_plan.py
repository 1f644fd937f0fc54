"""Planning: what is kept is of these pictures and of no others, and of the methods that were planned with."""

import json
import os
import shutil
import uuid
from dataclasses import replace
from pathlib import Path

import pytest
import ray

from o2n.data.datasets import data_set
from o2n.data.datasets.base import GOOD, LabelledCategory
from o2n.errors import DataSetError
from o2n.evaluation.methods import METHODS
from o2n.evaluation.plan import PlannedUnit, Protocol, _run_one, _Worker, complete, plan
from o2n.evaluation.protocol import revision
from tests.helpers import QUICK
from tests.o2n.data.datasets.trees import mask, picture
from tests.o2n.evaluation.methods.test_anomaly_dino import write_dino

SETTINGS = Protocol(shots=(2,), draws=1, pixels=64, pool=0, prompts=())


@pytest.fixture
def bolts(tmp_path: Path) -> Path:
    """A data set in MVTec layout of one category, `bolt`."""
    root = tmp_path / "bolts"
    for number in range(4):
        picture(root / "bolt" / "train" / "good" / f"{number}.png")
        picture(root / "bolt" / "test" / "good" / f"{number}.png")
        picture(root / "bolt" / "test" / "crack" / f"{number}.png")
        mask(root / "bolt" / "ground_truth" / "crack" / f"{number}_mask.png")
    return root


def planned(root: Path, cache: Path, settings: Protocol = SETTINGS) -> list[PlannedUnit]:
    dataset = data_set("bolts")
    return plan([(dataset, dataset.load(root))], {"raw-patches": "1"}, settings, QUICK, "weights", cache)


def test_what_is_kept_of_pictures_is_of_no_others_of_their_names(bolts: Path, tmp_path: Path) -> None:
    (run,) = planned(bolts, tmp_path / "cache")
    kept = tmp_path / "cache" / "pictures" / "bolts" / "bolt.json"
    before = kept.read_bytes()
    assert set(json.loads(before)) == {sample.key for sample in (*run.unit.references, *run.unit.queries)}

    copy = shutil.copytree(bolts, tmp_path / "copy" / "bolts")
    assert [one.file for one in planned(copy, tmp_path / "cache")] == [run.file]
    drawn = {one.key for one in run.unit.references}
    unused = next(copy / one.key for one in data_set("bolts").load(copy)[0].normals if one.key not in drawn)
    shutil.copy(copy / "bolt" / "test" / "crack" / "0.png", unused)  # not drawn: whatever it shows
    planned(copy, tmp_path / "cache")
    assert kept.read_bytes() == before

    for changed, told in (
        ("test/good/1.png", "test/good/1.png"),
        ("ground_truth/crack/2_mask.png", "test/crack/2.png"),
    ):
        other = shutil.copytree(bolts, tmp_path / told.replace("/", "-") / "bolts")
        picture(other / "bolt" / changed)
        with pytest.raises(DataSetError, match=f"bolt/{told}: picture, mask or label is another than .*: give another"):
            planned(other, tmp_path / "cache")
        planned(other, tmp_path / "another cache" / told)


def test_what_is_kept_of_pictures_is_of_no_other_labels(bolts: Path, tmp_path: Path) -> None:
    """As where a label file was mended since."""
    dataset = data_set("bolts")
    (category,) = dataset.load(bolts)
    cracked = next(row for row, query in enumerate(category.queries) if query.anomalous)
    queries = list(category.queries)
    queries[cracked] = replace(queries[cracked], kind=GOOD)
    mended = replace(category, queries=tuple(queries))

    def planned(one: LabelledCategory, cache: Path) -> list[PlannedUnit]:
        return plan([(dataset, [one])], {"raw-patches": "1"}, SETTINGS, QUICK, "weights", cache)

    planned(category, tmp_path / "cache")
    told = f"{queries[cracked].key}: picture, mask or label is another than .*: give another --cache"
    with pytest.raises(DataSetError, match=told):
        planned(mended, tmp_path / "cache")
    planned(mended, tmp_path / "another cache")


def test_pictures_asked_later_are_kept_beside_those_before(bolts: Path, tmp_path: Path) -> None:
    kept = tmp_path / "pictures" / "bolts" / "bolt.json"
    planned(bolts, tmp_path)
    before = json.loads(kept.read_bytes())
    planned(bolts, tmp_path, Protocol(shots=(2,), draws=3, pixels=64, pool=0, prompts=()))
    after = json.loads(kept.read_bytes())
    assert before.items() < after.items()
    kept.write_text("[]")
    with pytest.raises(DataSetError, match=r"bolt.json: has no pictures' digests \(.*\): delete it"):
        planned(bolts, tmp_path)


def test_draws_that_choose_the_same_references_count_each(bolts: Path, tmp_path: Path) -> None:
    """Of four pictures there are twelve ways to choose two, one after the other."""
    runs = planned(bolts, tmp_path, replace(SETTINGS, draws=13))
    assert len({run.file for run in runs}) < 13
    revised = [replace(run, revision=revision(METHODS["raw-patches"](QUICK))) for run in runs]
    assert [_run_one(run) for run in revised] == [""] * 13
    outcomes = [run.outcome() for run in runs]
    assert [outcome.draw for outcome in outcomes if outcome] == list(range(13))


class Counted(_Worker):
    """Leaves a file for each process that runs units, beside the cache; the first dies of its first unit."""

    def __init__(self) -> None:
        (Path(os.environ["COUNTED"]) / f"process-{uuid.uuid4().hex}").touch()

    def run(self, one: PlannedUnit) -> str:
        doom = Path(os.environ["COUNTED"]) / "doom"
        if doom.exists():
            doom.unlink()
            os._exit(1)
        return super().run(one)


@pytest.mark.cluster
def test_a_process_that_holds_a_gpu_runs_one_unit_after_the_other_and_is_replaced(
    bolts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ray gives each task with a GPU a process of its own, which would load the models once more. (Ray only counts
    GPUs: this needs none.)"""
    monkeypatch.setattr("o2n.evaluation.plan._Worker", Counted)
    (tmp_path / "doom").touch()
    written = revision(METHODS["raw-patches"](QUICK))
    runs = [replace(run, revision=written) for run in planned(bolts, tmp_path, replace(SETTINGS, draws=5))]
    environment = {"env_vars": {"COUNTED": str(tmp_path)}}
    ray.init(address="local", num_cpus=8, num_gpus=1, include_dashboard=False, runtime_env=environment)
    try:
        told = list(complete(runs, in_flight=8, gpus=0.5))  # for six of the eight there is no room
    finally:
        ray.shutdown()
    assert {error for _, error in told} == {""}
    assert sorted(run.unit.draw for run, _ in told) == list(range(5))
    assert 1 < len(list(tmp_path.glob("process-*"))) <= 3


class Stillborn(_Worker):
    def __init__(self) -> None:
        raise RuntimeError("no such library")


@pytest.mark.cluster
def test_where_no_process_comes_up_every_unit_says_so(
    bolts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("o2n.evaluation.plan._Worker", Stillborn)
    runs = planned(bolts, tmp_path, replace(SETTINGS, draws=2))
    ray.init(address="local", num_cpus=1, include_dashboard=False)
    try:
        told = list(complete(runs, in_flight=1))
    finally:
        ray.shutdown()
    assert len(told) == len(runs)
    assert all(error.startswith("no process can be started") for _, error in told)


def test_of_what_is_drawn_anew_each_time_nothing_is_kept(tmp_path: Path) -> None:
    families = data_set("families")
    plan([(families, families.load(tmp_path)[:1])], {"raw-patches": "1"}, SETTINGS, QUICK, "weights", tmp_path)
    assert not (tmp_path / "pictures").exists()


def test_a_node_with_other_weights_than_were_planned_with_keeps_nothing(
    bolts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset, revisions = data_set("bolts"), {}
    for node, mean in (("this", 0.5), ("other", 0.4)):
        monkeypatch.setenv("O2N_DINO", write_dino(tmp_path / node, mean))
        revisions[node] = revision(METHODS["anomaly-dino"](QUICK))
    own = QUICK.model_copy(update={"name": "of this test"})  # what is built is kept as long as the process lives
    of_this, of_other = (
        plan([(dataset, dataset.load(bolts))], {"anomaly-dino": told}, SETTINGS, own, "weights", tmp_path)[0]
        for told in revisions.values()
    )
    told = _run_one(of_this)
    assert told.startswith("anomaly-dino of this node is not the one that was planned with (")
    assert told.endswith("give all nodes one O2N_CACHE and the same models")
    assert not of_this.file.exists()
    assert _run_one(of_other) == ""
    assert of_other.outcome()
