"""The evaluation as users run it: one command, tables out; and again, when all is known."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from infra.local.cluster import Cluster
from infra.local.deploy import ROOT
from jobs.evaluate import by_profile, load, main, survey
from o2n.errors import DataSetError
from o2n.foundation import load_foundation
from o2n.models import LinearMaps
from o2n.text_map import MapCard, write_map
from tests.helpers import QUICK, stripes, wait_until, write
from tests.ray_jobs import run_job, summary


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A folder with a data set `cloth` in MVTec layout, of one category; bad pieces have a white square."""
    root = tmp_path / "data" / "cloth" / "striped_cloth"
    write(root / "train" / "good", [stripes(number) for number in range(4)])
    write(root / "test" / "good", [stripes(number) for number in range(10, 14)])
    bad = [stripes(number).copy() for number in range(20, 24)]
    for picture in bad:
        picture[30:50, 30:50] = 255
    write(root / "test" / "hole", bad)
    (root / "ground_truth" / "hole").mkdir(parents=True)
    mask = np.zeros(bad[0].shape[:2], np.uint8)
    mask[30:50, 30:50] = 255
    for number in range(4):
        Image.fromarray(mask).save(root / "ground_truth" / "hole" / f"{number:03}_mask.png")
    return tmp_path / "data"


@pytest.mark.cluster
def test_one_command_makes_the_tables_and_another_run_only_writes_them(
    cluster: Cluster, quick_profile: str, data: Path, tmp_path: Path
) -> None:
    arguments = ("--data", str(data), "--datasets", "cloth", "--profile", quick_profile, "--shots", "2", "--draws", "1")
    arguments += ("--methods", "one-to-normal,patchcore,nearest-patch-dino", "--pool", "2", "--prompts", "0")
    arguments += ("--pixels", "64", "--cache", str(tmp_path / "cache"), "--output", str(tmp_path / "out"))
    succeeded, output = run_job(cluster, "jobs/evaluate.py", *arguments)
    assert succeeded, output
    found = summary(output)
    assert (found["units"], found["done"], found["failed"]) == (3, 3, [])
    assert "nearest-patch-dino is left out" in output
    text = (tmp_path / "out" / "results.md").read_text()
    for title in ("Table 1", "Table 4", "Table 5", "Figure 4", "Time of each method", "As figure 2", "As figure 3"):
        assert title in text
    assert "| cloth | 2 |" in text
    assert "nearest-patch-dino left out" in text
    (draw,) = (tmp_path / "cache" / "draws").rglob("*.json")
    assert len(json.loads(draw.read_text())["references"]) == 2
    assert all("train/good" in key for key in json.loads(draw.read_text())["references"])

    outcomes = {file: file.stat().st_mtime_ns for file in (tmp_path / "cache" / "outcomes").iterdir()}
    shutil.rmtree(tmp_path / "out")
    succeeded, output = run_job(cluster, "jobs/evaluate.py", *arguments, "--tables-only")
    assert succeeded, output
    assert {file: file.stat().st_mtime_ns for file in (tmp_path / "cache" / "outcomes").iterdir()} == outcomes
    again = (tmp_path / "out" / "results.md").read_text()
    assert again.split("## What made")[0] == text.split("## What made")[0]


def tables_of(folder: Path) -> dict[str, str]:
    """Every table by its title, and every file of numbers by its name; how long things took is left out."""
    parts = dict(part.split("\n", 1) for part in (folder / "results.md").read_text().split("\n## ")[1:])
    files = {file.name: file.read_text() for file in (folder / "results").glob("*.csv")}
    every = parts | files
    return {name: text for name, text in every.items() if not name.startswith(("Time", "times", "What made"))}


@pytest.mark.cluster
def test_a_run_that_is_killed_and_given_again_ends_as_if_nothing_had_been(
    cluster: Cluster, quick_profile: str, data: Path, tmp_path: Path
) -> None:
    def command(name: str) -> list[str]:
        options = ["--data", str(data), "--datasets", "cloth", "--profile", quick_profile, "--pool", "0"]
        options += ["--methods", "raw-patches,nearest-picture,patchcore", "--shots", "2,4", "--draws", "3"]
        options += ["--pixels", "64", "--cpus", "1"]
        options += ["--cache", str(tmp_path / name), "--output", str(tmp_path / "out" / name)]
        return [sys.executable, "jobs/evaluate.py", *options]

    environment = os.environ | cluster.environment | {"RAY_ADDRESS": cluster.address}
    outcomes = tmp_path / "killed" / "outcomes"
    with subprocess.Popen(command("killed"), cwd=ROOT, env=environment, text=True, stdout=subprocess.PIPE) as driver:
        wait_until(lambda: list(outcomes.glob("*.json")) or driver.poll() is not None, "first outcome")
        driver.kill()
    kept = {file: file.stat().st_mtime_ns for file in outcomes.glob("*.json")}
    assert 0 < len(kept) < 3 * 2 * 3
    for name in ("killed", "whole"):
        done = subprocess.run(command(name), cwd=ROOT, env=environment, text=True, capture_output=True, check=False)
        assert done.returncode == 0, done.stderr
        found = summary(done.stdout)
        assert (found["units"], found["done"], found["failed"]) == (18, 18, [])
    assert {file: file.stat().st_mtime_ns for file in kept} == kept
    whole = tables_of(tmp_path / "out" / "whole")
    assert any("AUPRO" in name for name in whole)
    assert tables_of(tmp_path / "out" / "killed") == whole


@pytest.mark.cluster
def test_a_unit_that_fails_is_named_and_sinks_no_other(
    cluster: Cluster, quick_profile: str, data: Path, tmp_path: Path
) -> None:
    shutil.copytree(data / "cloth" / "striped_cloth", data / "cloth" / "torn_cloth")
    (data / "cloth" / "torn_cloth" / "test" / "hole" / "001.png").write_bytes(b"no picture")
    arguments = ("--data", str(data), "--datasets", "cloth", "--profile", quick_profile, "--methods", "raw-patches")
    arguments += ("--shots", "2", "--draws", "1", "--pixels", "64", "--cache", str(tmp_path / "cache"))
    succeeded, output = run_job(cluster, "jobs/evaluate.py", *arguments, "--output", str(tmp_path / "out"))
    assert not succeeded
    found = summary(output)
    assert (found["units"], found["done"]) == (2, 1)
    (failed,) = found["failed"]
    assert failed.startswith("cloth/torn_cloth, 2 shots, draw 0, raw-patches: ")
    assert "torn_cloth/test/hole/001.png" in failed
    assert "1 of 2 done, 1 failed" in (tmp_path / "out" / "results.md").read_text()


@pytest.mark.cluster
def test_data_sets_are_judged_with_a_text_map_each_that_has_not_seen_them(
    cluster: Cluster, data: Path, tmp_path: Path
) -> None:
    shutil.copytree(data / "cloth", data / "linen")
    clip, maps = load_foundation(QUICK).clip, {}
    for name in ("cloth", "linen"):
        card = MapCard(
            trained_on=name, pictures=(), encoder=clip.digest, levels=(2, 4), resolution=64, steps=1, seed=0, loss=0.5
        )
        maps[name] = tmp_path / f"{name}.safetensors"
        maps[name].write_bytes(write_map(LinearMaps(2, *clip.maps.weight.shape[1:]), card))
    encoder = QUICK.encoder.model_copy(update={"levels": (2, 4)})
    (tmp_path / "profile.json").write_text(
        QUICK.model_copy(update={"encoder": encoder, "text_map": str(maps["linen"])}).model_dump_json()
    )
    arguments = ["--data", str(data), "--datasets", "cloth,linen", "--profile", str(tmp_path / "profile.json")]
    arguments += ["--methods", "winclip", "--shots", "2", "--draws", "1", "--pixels", "64"]
    arguments += ["--cache", str(tmp_path / "cache"), "--output", str(tmp_path / "out")]
    succeeded, output = run_job(cluster, "jobs/evaluate.py", *arguments)
    assert not succeeded
    (failed,) = summary(output)["failed"]
    assert "linen/striped_cloth" in failed
    assert "the text map was trained on linen" in failed
    succeeded, output = run_job(cluster, "jobs/evaluate.py", *arguments, "--text-map", f"linen={maps['cloth']}")
    assert succeeded, output
    assert (summary(output)["units"], summary(output)["done"]) == (2, 2)
    text = (tmp_path / "out" / "results.md").read_text()
    assert f"- **text map of linen**: {maps['cloth']}" in text
    assert f"- **weights of the linear maps with {maps['cloth']}**: sha256 " in text


def test_a_text_map_is_for_a_data_set_that_is_judged(data: Path) -> None:
    loaded = load(data, ["families", "cloth"])
    families, cloth = loaded
    other = QUICK.model_copy(update={"text_map": "FILE"})
    assert by_profile(QUICK, {"cloth": "FILE"}, loaded) == [(QUICK, [families]), (other, [cloth])]
    assert by_profile(QUICK, {"cloth": "FILE", "families": "FILE"}, loaded) == [(other, loaded)]
    assert by_profile(QUICK, {}, loaded) == [(QUICK, loaded)]
    with pytest.raises(DataSetError, match="--text-map for mvtec: not among --datasets"):
        by_profile(QUICK, {"mvtec": "FILE"}, loaded)


def test_what_is_there_is_evaluated_if_nothing_is_named(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (data / "notes").mkdir()
    (data / "mvtec").mkdir()
    assert [dataset.name for dataset, _ in load(data, ["cloth"])] == ["cloth"]
    with pytest.raises(
        DataSetError, match="mvtec/bottle/train/good: no such file or folder; expected all 15 categories"
    ):
        load(data, [])
    assert capsys.readouterr().out == ""
    (data / "mvtec").rmdir()
    assert [dataset.name for dataset, _ in load(data, [])] == ["families"]
    told = capsys.readouterr().out
    assert f"only `families` are judged, which are procedural: {data} has no folder mvtec, visa" in told
    assert [dataset.name for dataset, _ in load(data, ["families"])] == ["families"]
    assert capsys.readouterr().out == ""  # as was asked for


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--methods", "patchcore,magic"], "magic unknown: choose from one-to-normal"),
        (["--shots", "1,2"], "'1,2' has a number below 2"),
        (["--shots", ","], "give numbers of shots from 2 on"),
        (["--shots", "two"], "'two' is no list of numbers"),
        (["--data", "nowhere"], "nowhere: no such folder: give --data one that has a folder for each data set"),
        (["--datasets", "cars"], "cars: no such file or folder; expected CATEGORY/train/good"),
    ],
)
def test_what_cannot_be_is_refused_before_any_work(options: list[str], message: str, tmp_path: Path) -> None:
    done = CliRunner().invoke(main, ["--data", str(tmp_path), *options])
    assert done.exit_code in (1, 2)
    assert message in done.output


def test_outcomes_of_a_gpu_are_kept_beside_those_of_a_cpu() -> None:
    found = survey(QUICK, ["patchcore"])
    on_cpu, on_gpu = (replace(found, device=device).models for device in ("cpu", "cuda"))
    assert found.models in (on_cpu, on_gpu)
    assert on_cpu != on_gpu
    assert on_cpu == found.identity  # as what was computed before has it
