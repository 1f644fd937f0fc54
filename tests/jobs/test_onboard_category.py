"""The onboarding job through `ray job submit`, as users run it."""

import json
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from infra.local.cluster import Cluster
from jobs.onboard_category import main
from o2n.making import STAGES
from o2n.store import CategoryStore
from tests.helpers import checks, stripes, write
from tests.ray_jobs import run_job, summary

pytestmark = pytest.mark.cluster

JOB = "jobs/onboard_category.py"


def test_a_tree_is_onboarded_side_by_side_and_bad_categories_fail_alone(
    cluster: Cluster, quick_profile: str, tmp_path: Path
) -> None:
    write(tmp_path / "tree" / "board" / "train" / "good", [checks(0), checks(1)])
    write(tmp_path / "tree" / "cloth", [stripes(0), stripes(1)])
    write(tmp_path / "tree" / "lonely", [checks(0)])
    write(tmp_path / "tree" / "broken", [checks(0), checks(1)])
    (tmp_path / "tree" / "broken" / "bad.png").write_text("no picture")
    write(tmp_path / "tree" / "bad name", [checks(0), checks(1)])
    store = CategoryStore((tmp_path / "store").as_uri())
    tree = ("--tree", str(tmp_path / "tree"))
    options = ("--profile", quick_profile, "--store", store.url, "--workers", "2")
    succeeded, output = run_job(cluster, JOB, *tree, *options)
    assert not succeeded
    found = summary(output)
    assert (found["published"], found["failed"]) == (2, 3)
    errors = {c["category"]: c["error"] for c in found["categories"] if "error" in c}
    assert {name: error["code"] for name, error in errors.items()} == {
        "bad name": "bad_category",
        "broken": "bad_picture",
        "lonely": "bad_category",
    }
    assert store.categories() == ["board", "cloth"]
    assert "[5/5]" in output

    place = str(tmp_path / "tree" / "board" / "train" / "good")
    succeeded, output = run_job(cluster, JOB, "board", "--references", place, *options)
    assert succeeded, output
    (again,) = summary(output)["categories"]
    assert again["status"] == "unchanged"
    assert again["version"] == store.current("board").version
    assert again["resumed"] == list(STAGES)
    assert f"board: unchanged version {again['version']}" in output


def test_a_manifest_is_tried_then_onboarded_then_known(cluster: Cluster, quick_profile: str, tmp_path: Path) -> None:
    """A dry run writes nothing and says what it rests on; a class's pictures are drawn once."""
    for index, name in enumerate(("one", "two", "three")):
        write(tmp_path / name, [checks(2 * index), checks(2 * index + 1)])
    write(tmp_path / "more", [checks(seed) for seed in range(10, 13)])
    entries = [
        {"name": name, "references": name, "object": "board", "profile": quick_profile} for name in ("one", "two")
    ]
    entries[0]["more_normal"] = "more"
    file = tmp_path / "categories.yaml"
    file.write_text(yaml.safe_dump([*entries, {"name": "none", "references": "nowhere"}]))
    store = CategoryStore((tmp_path / "store").as_uri())
    options = ("--manifest", str(file), "--store", store.url, "--workers", "2")

    succeeded, output = run_job(cluster, JOB, *options, "--dry-run")
    assert not succeeded
    found = summary(output)
    assert (found["new"], found["unchanged"], found["failed"]) == (2, 0, 1)
    assert "no such folder" in output
    assert not (tmp_path / "store").exists()
    assert "category one, measured just now on" in found["estimate"]["rests_on"]
    assert found["estimate"]["core_hours"] > 0
    assert found["estimate"]["gpu_hours"] == 0

    file.write_text(yaml.safe_dump(entries))
    succeeded, output = run_job(cluster, JOB, *options, "--json", str(tmp_path / "summary.json"))
    assert succeeded, output
    found = json.loads((tmp_path / "summary.json").read_text())
    assert found == summary(output)
    one, two = found["categories"]
    assert {*STAGES, "reading", "publish"} <= set(one["seconds"]) & set(two["seconds"])
    assert sorted("prior" in row.get("resumed", ()) for row in (one, two)) == [False, True]
    assert len(store.calibration(store.current("one")).pictures) == 5
    assert len(store.calibration(store.current("two")).pictures) == 2

    file.write_text(yaml.safe_dump([*entries, {**entries[1], "name": "three", "references": "three"}]))
    succeeded, output = run_job(cluster, JOB, *options, "--dry-run")
    assert succeeded, output
    found = summary(output)
    assert (found["new"], found["unchanged"]) == (1, 2)
    assert found["estimate"]["rests_on"].startswith("the median of 2 versions in the store")
    assert store.categories() == ["one", "two"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "give NAME with --references, or --tree, or --manifest"),
        (("bolts",), "give NAME with --references, or --tree, or --manifest"),
        (("bolts", "--references", "x", "--tree", "y"), "give NAME with --references"),
        (("--tree", "x", "--object", "bolt"), "for one category"),
        (("--tree", "x", "--gpus", "-1"), "--gpus"),
        (("--tree", "x", "--cpus", "0"), "--cpus"),
        (("--tree", "x", "--cpus", "nan"), "Invalid value for '--cpus': nan is no finite number"),
        (("--tree", "x", "--gpus", "nan"), "Invalid value for '--gpus': nan is no finite number"),
        (("--tree", "x", "--json", ""), "is no folder that can be written to"),
        (
            ("--tree", "/nowhere"),
            "error: folder /nowhere: cannot be listed (No such file or directory): check the path",
        ),
        (("--manifest", "{folder}/list.csv"), "list.csv, line 3: references: Field required"),
        (("--tree", "x", "--json", "{folder}/nowhere/out.json"), "nowhere is no folder that can be written to"),
        (("--tree", "/nowhere", "--json", "{folder}/list.csv"), "error: folder /nowhere: cannot be listed"),
        (("bolts", "--references", ""), "Invalid value for '--references': is empty"),
        (("bolts", "--references", "x", "--more-normal", " "), "Invalid value for '--more-normal': is empty"),
        (("--tree", ""), "Invalid value for '--tree': is empty"),
        (("--manifest", ""), "Invalid value for '--manifest': is empty"),
        (("bolts", "--references", "x", "--object", "m\udcfctter"), "is no text in UTF-8"),
    ],
)
def test_what_cannot_be_meant_is_refused_in_one_line_before_anything_starts(
    tmp_path: Path, arguments: tuple[str, ...], said: str
) -> None:
    (tmp_path / "list.csv").write_text(written := "name,references\na,x\nb,\n")
    done = CliRunner().invoke(main, [argument.format(folder=tmp_path) for argument in arguments])
    assert done.exit_code != 0
    assert said in done.output
    assert "Traceback" not in done.output
    assert (tmp_path / "list.csv").read_text() == written
