"""The offline job, through `ray job submit` and on a Ray of its own: what it takes, what it keeps, what it refuses."""

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.fs
import pyarrow.parquet as pq
import pytest
import ray
from click.testing import CliRunner, Result

from infra.local.cluster import Cluster
from jobs.score_images import main
from o2n import images
from o2n.calibration import decide
from o2n.objects import open_objects
from o2n.offline_run import SCHEMA
from o2n.onboard import onboard
from o2n.store import CategoryStore
from o2n.triplet import TripletScorer
from tests import ray_jobs
from tests.helpers import QUICK, checks, stripes, write


@pytest.fixture
def own_ray(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The job's, which a test must not leave behind."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    yield
    ray.shutdown()


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, list(arguments), catch_exceptions=False)


def summary(done: Result) -> dict:
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("option", ["--maps", "--counterparts"])
def test_what_a_run_draws_does_not_lie_among_what_it_scores(tmp_path: Path, option: str) -> None:
    scored, output = str(tmp_path / "new"), ("--output", str(tmp_path / "scores"))
    for place, way in (
        (scored, (scored, "--category", "checks")),
        (f"{scored}/deeper/..", (scored, "--category", "checks")),
        (f"{scored}/checks/maps", ("--tree", scored)),
        (f"file://{scored}/maps", (scored, "--category", "checks")),
        ("s3://bucket/new/maps/", ("s3://bucket/new", "--category", "checks")),
    ):
        refused = run(*way, *output, option, place)
        assert refused.exit_code == 2
        assert f"{option} {place} lies where pictures are scored" in " ".join(refused.stderr.split())
    assert not (tmp_path / "scores").exists()


def test_scores_do_not_lie_among_the_parquet_that_is_scored(tmp_path: Path) -> None:
    """They have paths and categories, too."""
    refused = run("--parquet", str(tmp_path), "--output", str(tmp_path / "scores"))
    assert refused.exit_code == 2
    assert "lies where pictures are scored" in " ".join(refused.stderr.split())
    assert not (tmp_path / "scores").exists()


@pytest.mark.cluster
def test_offline_scores_are_the_librarys_and_a_bad_picture_is_a_row(
    cluster: Cluster, published: CategoryStore, quick_profile: str, tmp_path: Path
) -> None:
    write(tmp_path / "checks" / "test" / "good", [checks(seed) for seed in range(30, 34)])
    write(tmp_path / "stripes" / "test" / "new", [stripes(seed, 70, 200) for seed in range(30, 33)])
    (tmp_path / "stripes" / "test" / "new" / "bad.png").write_text("no picture")
    options = ("--tree", str(tmp_path), "--output", str(tmp_path / "scores"), "--profile", quick_profile)
    succeeded, output = ray_jobs.run_job(cluster, "jobs/score_images.py", *options)
    assert succeeded, output
    assert ray_jobs.summary(output)["pictures"] == 8
    assert ray_jobs.summary(output)["errors"] == 1
    assert "5% cannot be promised with 2 normal pictures" in ray_jobs.summary(output)["notes"]["checks"]

    rows = {row["path"]: row for row in pq.read_table(tmp_path / "scores").to_pylist()}
    assert len(rows) == 8
    bad = rows.pop(str(tmp_path / "stripes" / "test" / "new" / "bad.png"))
    assert "bad.png: is no picture" in bad["error"]
    assert bad["score"] is None
    scorer = TripletScorer(QUICK, published)
    for path, row in rows.items():
        (expected,) = scorer.score([images.read(Path(path))], [published.current(row["category"])])
        assert row["error"] is None
        for branch in ("score", "s_p", "s_n", "s_text"):
            assert row[branch] == pytest.approx(getattr(expected, branch), abs=1e-5)
        decision = decide(row["score"], published.calibration(published.current(row["category"])), 0.05)
        assert {name: row[name] for name in decision.values()} == decision.values()
    assert ray_jobs.summary(output)["anomalous"] == sum(row["is_anomalous"] for row in rows.values())


@pytest.mark.cluster
def test_a_job_that_cannot_start_says_why_in_one_line(cluster: Cluster, tmp_path: Path) -> None:
    succeeded, output = ray_jobs.run_job(
        cluster, "jobs/score_images.py", "--category", "checks", str(tmp_path), "--output", str(tmp_path / "out")
    )
    assert not succeeded
    assert f"error: no pictures in {tmp_path}" in output
    assert "Traceback" not in output


@pytest.mark.cluster
def test_bytes_in_parquet_on_s3_are_scored_once_with_the_versions_of_the_start(
    published: CategoryStore, bucket: str, quick_profile: str, tmp_path: Path, own_ray: None
) -> None:
    store = CategoryStore(f"s3://{bucket}/store")
    first = onboard("board", [checks(0), checks(1)], QUICK, store).ref
    onboard("cloth", [stripes(0), stripes(1)], QUICK, store)
    pictures = [checks(seed) if seed % 2 else stripes(seed) for seed in range(20)]
    data = [images.encode_png(picture) for picture in pictures]
    data[3] = b"no picture"
    parts, serials = ["board" if seed % 2 else "cloth" for seed in range(20)], pa.array(range(100, 120), pa.int16())
    table = pa.table({"bytes": data, "part": parts, "serial": serials, "line": ["a"] * 20})
    file = pa.BufferOutputStream()
    pq.write_table(table, file)
    open_objects(f"s3://{bucket}/in").put("new.parquet", file.getvalue().to_pybytes())

    output = f"s3://{bucket}/scores"
    options = ("--parquet", f"s3://{bucket}/in", "--category-column", "part", "--keep", "serial", "--output", output)
    options = (*options, "--profile", quick_profile, "--store", store.url, "--maps", f"s3://{bucket}/maps")
    done = run(*options)
    found = summary(done)
    assert (found["pictures"], found["scored_before"], found["errors"]) == (20, 0, 1)
    assert {name: one["pictures"] for name, one in found["categories"].items()} == {"board": 10, "cloth": 10}
    assert sum(found["categories"]["board"]["histogram"]["counts"]) == 9
    lines = done.stdout.splitlines()
    assert any(line.startswith("cloth ") and "█" in line for line in lines)

    # What a run that was killed leaves: a shard less. In the meantime another version was published.
    objects = open_objects(output)
    (shard,) = objects.keys("part-000001")
    lost = objects.get(shard)[0]
    objects.delete(shard)
    second = onboard("board", [checks(2), checks(3)], QUICK, store).ref
    assert first != second == store.current("board")
    resumed = summary(run(*options))
    assert (resumed["pictures"], resumed["scored_before"]) == (20, 12)
    assert resumed["versions"]["board"] == first.version
    assert objects.get(shard)[0] == lost

    tables = [pq.read_table(pa.BufferReader(objects.get(key)[0])) for key in objects.keys("part-")]
    kept = pa.concat_tables(tables)
    assert kept.schema.names == [*SCHEMA.names, "serial"]
    assert kept["serial"].combine_chunks() == serials
    rows = kept.to_pylist()
    assert [row["path"] for row in rows] == [f"s3://{bucket}/in/new.parquet#{index}" for index in range(20)]
    scorer, refs = TripletScorer(QUICK, store), {"board": first, "cloth": store.current("cloth")}
    maps = open_objects(f"s3://{bucket}/maps")
    for index, row in enumerate(rows):
        if index == 3:
            assert "new.parquet#3: is no picture" in row["error"]
            continue
        (expected,) = scorer.score([pictures[index]], [refs[row["category"]]])
        assert row["score"] == pytest.approx(expected.score, abs=1e-6)
        assert maps.get(row["anomaly_map"].removeprefix(f"{maps.url}/"))[0]


def test_a_run_that_is_done_does_nothing_and_another_is_refused(
    published: CategoryStore, quick_profile: str, tmp_path: Path
) -> None:
    folder = write(tmp_path / "new", [checks(seed) for seed in range(3)])
    output = tmp_path / "some" / "scores"
    options = ("--category", "checks", "--profile", quick_profile, "--store", published.url, "--output", str(output))
    from o2n.inputs import Inputs
    from o2n.offline_plan import Request
    from o2n.offline_run import open_run
    from o2n.settings import get_settings

    inputs = Inputs(folders=(str(folder),), category="checks")
    request = Request(inputs=inputs, store=published.url, profile=QUICK, rate=get_settings().false_positive_rate)
    planned = open_run(str(output), request, published, workers=1)
    for part in planned.parts():
        for table in planned.read(part):
            list(planned.collect([pa.Table.from_pylist([row | {"error": "made up"} for row in table.to_pylist()])]))
    before = {path: path.stat().st_mtime_ns for path in output.rglob("*")}
    found = summary(run(*options, str(folder)))
    assert (found["scored_before"], found["errors"]) == (3, 3)
    assert not ray.is_initialized()
    refused = run(*options, "--false-positive-rate", "0.2", str(folder))
    assert refused.exit_code == 1
    assert "holds the scores of another run, with other rate: give another --output, or --overwrite" in refused.stderr
    assert {path: path.stat().st_mtime_ns for path in output.rglob("*")} == before


def test_a_place_that_cannot_be_written_down_is_told(published: CategoryStore, tmp_path: Path) -> None:
    folder = write(tmp_path / os.fsdecode(b"caf\xe9"), [checks(0)])
    options = ("--store", published.url, "--output", str(tmp_path / "scores"))
    done = run("--category", "checks", *options, str(folder))
    assert done.exit_code == 1
    assert done.stderr == f"error: {str(folder)!r}: is not UTF-8: rename it, or give a link to it\n"


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("a",),
        ("--category", "x"),
        ("--tree", "a", "--category", "x"),
        ("--tree", "a", "--parquet", "b"),
        ("--category", "x", "--category-column", "y", "--parquet", "b"),
        ("--category", "x", "--category-column", "y", "a"),
        ("--category", "x", "--keep", "serial", "a"),
        ("--category", "x", "--parquet", "b", "--keep", "serial", "--keep", "score"),
    ],
)
def test_what_does_not_go_together_is_refused(arguments: tuple[str, ...], tmp_path: Path) -> None:
    done = run(*arguments, "--output", str(tmp_path / "scores"))
    assert done.exit_code == 2
    assert "give " in done.stderr
    assert not (tmp_path / "scores").exists()
