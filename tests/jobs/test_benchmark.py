"""The benchmarks, very small: what they report, not how fast this machine is."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from jobs.benchmark import main
from tests.toy import toy_profile


def run(*arguments: str) -> str:
    done = CliRunner().invoke(main, list(arguments), catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


def test_scoring_times_every_stage_alone_and_in_the_best_batch(quick_profile: str, tmp_path: Path) -> None:
    file = tmp_path / "scoring.json"
    table = run("scoring", "--profile", quick_profile, "--batches", "1,2", "--rounds", "1", "--json", str(file))
    report = json.loads(file.read_text())
    assert {row["name"] for row in report["onboarding"]} == {"prior pictures", "LoRA, 100 steps", "pool", "bank"}
    assert [row["pictures"] for row in report["whole"]] == [1, 2]
    assert set(report["stages"]) == set(report["shares"]) == {"1", str(report["best_batch"])}
    for size, stages in report["stages"].items():
        assert {row["name"] for row in stages} == {
            *report["shares"][size],
            "personalise, 1 prompt",
            "personalise, 3 prompts",
        }
        assert {row["pictures"] for row in stages} == {int(size)}
        assert sum(report["shares"][size].values()) == pytest.approx(1)
    assert report["whole"][0]["relative"] == 1
    for row in [*report["onboarding"], *report["whole"], *report["stages"]["1"]]:
        assert row["seconds"] > 0
        assert (row["flops"] > 0) == (row["limit_share"] > 0)
        assert row["peak_bytes"] is None or row["peak_bytes"] >= row["added_bytes"] >= 0
        assert f"| {row['name']} | {row['pictures']} |" in table


@pytest.mark.cluster
@pytest.mark.slow
def test_serving_tells_http_beside_the_bare_loop(quick_profile: str, tmp_path: Path) -> None:
    file = tmp_path / "serving.json"
    options = ("--categories", "2", "--pictures", "4", "--clients", "2", "--rounds", "1")
    table = run("serving", "--profile", quick_profile, *options, "--json", str(file))
    report = json.loads(file.read_text())
    for way in ("bare", "http"):
        assert set(report[way]["pictures_per_second"]) == {"single", "mixed"}
        assert all(rate > 0 for rate in report[way]["pictures_per_second"].values())
        alone = report[way]["alone_ms"]
        assert 0 < alone["p50"] <= alone["p95"] <= alone["p99"]
    replicas = {"Gateway", "Encoder", "Personalizer", "NormalScorer", "TextScorer"}
    assert {name: count for name, count in report["http"]["processes"].items() if name in replicas} == dict.fromkeys(
        replicas, 1
    )
    assert replicas <= set(report["cpu_shares"])
    for shares in (report["branches"], report["cpu_shares"]):
        assert sum(shares.values()) == pytest.approx(1)
        assert all(share >= 0 for share in shares.values())
    assert all(ratio > 0 for name, ratio in report["ratios"].items() if name != "added_ms_at_median")
    assert "| throughput, HTTP to bare loop, mixed |" in table


@pytest.mark.cluster
@pytest.mark.slow
def test_offline_tells_one_and_two_workers_beside_the_bare_loop(tmp_path: Path) -> None:
    profile, file = tmp_path / "profile.json", tmp_path / "offline.json"
    profile.write_text(toy_profile(tmp_path / "models").model_dump_json())
    options = ("--categories", "2", "--pictures", "160", "--rounds", "1", "--long", "1500")
    table = run("offline", "--profile", str(profile), *options, "--json", str(file))
    report = json.loads(file.read_text())
    for figures in (report["pictures_per_second"], report["cpu_ms_per_picture"]):
        assert set(figures) == {"bare", "1", "2"}
        assert all(value > 0 for value in figures.values())
    assert all(ratio > 0 for ratio in report["ratios"].values())
    assert "| throughput, two workers to one |" in table
    assert report["long_run"]["summary"]["pictures"] == 1500
    held = report["long_run"]["mib_in_quarters"]
    assert 1 <= len(held) <= 4
    assert all(mib > 100 for mib in held)
    assert "1,500 pictures in one run" in table


def test_a_batch_that_is_no_number_is_refused_before_any_work() -> None:
    done = CliRunner().invoke(main, ["scoring", "--batches", "1,two"])
    assert done.exit_code == 2
    assert "two" in done.output


def test_random_weights_are_for_models_that_are_not_embedded() -> None:
    done = CliRunner().invoke(main, ["scoring", "--profile", "tiny", "--random-weights"])
    assert done.exit_code == 2
    assert "only paper and fast" in done.output
