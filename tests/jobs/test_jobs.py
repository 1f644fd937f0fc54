"""The scoring job through `ray job submit`, as users run them."""

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from infra.local.cluster import Cluster
from o2n.calibration import decide
from o2n.store import CategoryStore
from o2n.triplet import TripletScorer
from tests.helpers import QUICK, checks, stripes, write
from tests.ray_jobs import run_job, summary

pytestmark = pytest.mark.cluster


def test_offline_scores_are_the_librarys_and_a_bad_picture_is_a_row(
    cluster: Cluster, published: CategoryStore, quick_profile: str, tmp_path: Path
) -> None:
    write(tmp_path / "checks" / "test" / "good", [checks(seed) for seed in range(30, 34)])
    write(tmp_path / "stripes" / "test" / "new", [stripes(seed, 70, 200) for seed in range(30, 33)])
    (tmp_path / "stripes" / "test" / "new" / "bad.png").write_text("no picture")
    options = ("--tree", str(tmp_path), "--output", str(tmp_path / "scores"), "--profile", quick_profile)
    succeeded, output = run_job(cluster, "jobs/score_images.py", *options)
    assert succeeded, output
    assert summary(output)["pictures"] == 8
    assert summary(output)["errors"] == 1
    assert "5% cannot be promised with 2 normal pictures" in summary(output)["notes"]["checks"]

    rows = {row["path"]: row for row in pq.read_table(tmp_path / "scores").to_pylist()}
    assert len(rows) == 8
    bad = rows.pop(str(tmp_path / "stripes" / "test" / "new" / "bad.png"))
    assert "bad.png: is no picture" in bad["error"]
    assert bad["score"] is None
    scorer = TripletScorer(QUICK, published)
    for path, row in rows.items():
        from o2n.images import read

        (expected,) = scorer.score([read(Path(path))], [published.current(row["category"])])
        assert row["error"] is None
        for branch in ("score", "s_p", "s_n", "s_text"):
            assert row[branch] == pytest.approx(getattr(expected, branch), abs=1e-5)
        decision = decide(row["score"], published.calibration(published.current(row["category"])), 0.05)
        assert {name: row[name] for name in decision.values()} == decision.values()
    assert summary(output)["anomalous"] == sum(row["is_anomalous"] for row in rows.values())


def test_a_job_that_cannot_start_says_why_in_one_line(cluster: Cluster, tmp_path: Path) -> None:
    succeeded, output = run_job(
        cluster, "jobs/score_images.py", "--category", "checks", str(tmp_path), "--output", str(tmp_path / "out")
    )
    assert not succeeded
    assert f"error: no pictures in {tmp_path}" in output
    assert "Traceback" not in output
