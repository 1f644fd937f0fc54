"""Ray Data scoring: the same scores as the library, rows instead of failures, categories mixed."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import ray
from PIL import Image

from infra.local.s3 import s3_environment
from o2n import images
from o2n.calibration import decide
from o2n.category import VersionRef
from o2n.errors import NotFoundError, StoreError
from o2n.inputs import Inputs, decoded
from o2n.offline import SCHEMA, _resolutions, _Scorer, score_dataset, score_run
from o2n.offline_plan import Request
from o2n.offline_run import open_run
from o2n.onboard import onboard
from o2n.s3 import s3_client
from o2n.store import CategoryStore
from o2n.triplet import TripletScorer
from tests.helpers import QUICK, checks, stripes, write

pytestmark = pytest.mark.cluster


@pytest.fixture(scope="module", autouse=True)
def local_ray(s3_server: str) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in s3_environment(s3_server, "test", "test").items():
            patch.setenv(name, value)
        ray.init(address="local", num_cpus=2, include_dashboard=False, logging_level="warning")
        yield
        ray.shutdown()


def pinned_to(store: CategoryStore, *names: str) -> dict[str, VersionRef]:
    return {name: store.current(name) for name in names}


def test_rows_come_back_scored_or_with_their_error(published: CategoryStore, tmp_path: Path) -> None:
    onboard("spoilt", [checks(5), checks(6)], QUICK, published)
    manifest = published.manifest(published.current("spoilt"))
    published.objects.put(f"blobs/sha256/{manifest.blobs['features'].sha256}", b"altered")
    first = write(tmp_path / "checks", [checks(seed) for seed in range(40, 43)])
    second = write(tmp_path / "stripes", [stripes(seed, 64 + seed, 64) for seed in range(40, 43)])
    (second / "bad.png").write_bytes(b"")
    rows = [
        {"path": str(path), "category": category}
        for category, folder in (("checks", first), ("stripes", second), ("spoilt", first))
        for path in images.find(folder)
    ]
    rows = rows[::2] + rows[1::2]  # categories mixed
    pinned = pinned_to(published, "checks", "stripes", "spoilt")
    dataset = score_dataset(ray.data.from_items(rows), QUICK, published, pinned, rate=0.4, workers=2)
    found = {(row["category"], row["path"]): row for row in dataset.take_all()}
    published.delete("spoilt")
    assert len(found) == len(rows)
    assert dataset.schema().names == SCHEMA.names

    scorer = TripletScorer(QUICK, published)
    for (category, path), row in found.items():
        assert row["version"] == pinned[category].version
        if category == "spoilt":
            assert "was altered" in row["error"]
        elif path.endswith("bad.png"):
            assert "bad.png: is empty" in row["error"]
        else:
            (expected,) = scorer.score([images.read(Path(path))], [pinned[category]])
            assert row["error"] is None
            decision = decide(row["score"], published.calibration(pinned[category]), 0.4).values()
            assert {name: row[name] for name in decision} == decision
            for branch in ("score", "s_p", "s_n", "s_text"):
                assert row[branch] == pytest.approx(getattr(expected, branch), abs=1e-5)
        for column in ("score", "p_value", "threshold", "is_anomalous", "false_positive_rate"):
            assert (row[column] is None) == (row["error"] is not None)


def test_bytes_and_s3_are_scored_beside_files_and_other_columns_stay(
    published: CategoryStore, bucket: str, tmp_path: Path
) -> None:
    pictures = [checks(seed) for seed in range(60, 63)]
    folder = write(tmp_path / "new", pictures)
    paths = images.find(folder)
    s3_client().put_object(Bucket=bucket, Key="ä b.png", Body=paths[1].read_bytes())
    rows = [
        {"id": 7, "path": str(paths[0]), "bytes": None, "category": "checks", "tags": ["x"]},
        {"id": 8, "path": f"s3://{bucket}/ä b.png", "bytes": None, "category": "checks", "tags": []},
        {"id": 9, "path": None, "bytes": paths[2].read_bytes(), "category": "checks", "tags": ["y", "z"]},
        {"id": 10, "path": str(paths[0]), "bytes": None, "category": "unknown", "tags": []},
        {"id": 11, "path": f"s3://{bucket}/gone.png", "bytes": None, "category": "checks", "tags": []},
        {"id": 12, "path": str(paths[0]), "bytes": None, "category": None, "tags": []},
    ]
    pinned = pinned_to(published, "checks")
    maps, redrawn = tmp_path / "maps", f"s3://{bucket}/counterparts"
    dataset = score_dataset(
        ray.data.from_arrow(pa.Table.from_pylist(rows)),
        QUICK,
        published,
        pinned,
        maps=str(maps),
        counterparts=redrawn,
    )
    found = {row["id"]: row for row in dataset.take_all()}
    assert {number: row["tags"] for number, row in found.items()} == {row["id"]: row["tags"] for row in rows}
    assert "bytes" not in found[9]
    scores = TripletScorer(QUICK, published).score(pictures, [pinned["checks"]] * 3)
    for row, score in zip((found[7], found[8], found[9]), scores, strict=True):
        assert row["error"] is None
        assert row["score"] == pytest.approx(score.score, abs=1e-6)
        anomaly_map = np.asarray(Image.open(row["anomaly_map"].removeprefix("file://")))
        assert anomaly_map.dtype == np.float32
        assert anomaly_map == pytest.approx(score.anomaly_map, abs=1e-6)
        key = row["counterpart"].removeprefix(f"s3://{bucket}/")
        data = s3_client().get_object(Bucket=bucket, Key=key)["Body"].read()
        assert np.abs(images.decode(data).astype(int) - score.counterpart).max() <= 1
    assert found[7]["path"] == str(paths[0])
    assert found[9]["path"] is None
    assert "category unknown has no version" in found[10]["error"]
    assert "gone.png: cannot be read" in found[11]["error"]
    assert found[12]["error"] == "the row has no category: give it one, or leave it out"
    assert found[10]["score"] is found[11]["score"] is found[11]["anomaly_map"] is None


def test_two_batches_at_once_in_one_worker_change_no_score(published: CategoryStore, tmp_path: Path) -> None:
    """As on a GPU, where a worker computes the features of one batch while it redraws another."""
    pinned = pinned_to(published, "checks", "stripes")
    paths = images.find(write(tmp_path / "new", [checks(seed) for seed in range(6)]))
    worker = _Scorer(QUICK, published, pinned, 0.4, None, None)
    batches = [
        decoded(pa.table({"path": [str(path)] * 2, "category": ["checks", "stripes"]}), dict.fromkeys(pinned, 64))
        for path in paths
    ]
    one_by_one = [worker(batch) for batch in batches]
    with ThreadPoolExecutor(2) as threads:
        assert list(threads.map(worker, batches)) == one_by_one


def test_categories_seen_at_different_scales_and_a_broken_one_share_a_worker(
    published: CategoryStore, tmp_path: Path
) -> None:
    store = CategoryStore((tmp_path / "store").as_uri())
    for name, side in (("large", 160), ("small", 96), ("broken", 96)):
        onboard(name, [stripes(0, side, side), stripes(1, side, side)], QUICK, store)
    pinned = pinned_to(store, "large", "small", "broken")
    store.objects.put(manifest_key(pinned["broken"]), b"altered")
    sides = _resolutions(QUICK, store, pinned)
    assert sides == {"large": 128, "small": 64, "broken": 64}
    pictures = [stripes(seed, 200, 170) for seed in range(6)]
    names = ["large", "small", "broken"] * 2
    paths = [str(path) for path in images.find(write(tmp_path / "new", pictures))]
    found = _Scorer(QUICK, store, pinned, 0.4, None, None)(decoded(pa.table({"path": paths, "category": names}), sides))
    scorer = TripletScorer(QUICK, store)
    for row, picture in zip(found.to_pylist(), pictures, strict=True):
        if row["category"] == "broken":
            assert "was altered" in row["error"]
        else:
            (expected,) = scorer.score([picture], [pinned[row["category"]]])
            assert row["score"] == pytest.approx(expected.score, abs=1e-6)


def manifest_key(ref: VersionRef) -> str:
    return f"categories/{ref.category}/versions/{ref.version}.json"


def test_a_version_that_is_collected_ends_a_run_and_a_blob_that_is_lost_does_not(
    published: CategoryStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = CategoryStore((tmp_path / "store").as_uri())
    ref = onboard("board", [checks(0), checks(1)], QUICK, store).ref
    store.objects.delete(f"blobs/sha256/{store.manifest(ref).blobs['adapter'].sha256}")
    path = images.find(write(tmp_path / "new", [checks(seed) for seed in range(3)]))[0]
    batch = decoded(pa.table({"path": [str(path)], "category": ["board"]}), {"board": 64})
    (row,) = _Scorer(QUICK, store, {"board": ref}, 0.4, None, None)(batch).to_pylist()
    assert "blobs/sha256/" in row["error"]

    inputs = Inputs(folders=(str(tmp_path / "new"),), category="board")
    request = Request(inputs=inputs, store=store.url, profile=QUICK, rate=0.4)
    run = open_run(str(tmp_path / "scores"), request, store, workers=1)

    def collected_since(*arguments: Any) -> dict[str, int]:
        sides = _resolutions(*arguments)
        store.objects.delete(manifest_key(ref))
        return sides

    monkeypatch.setattr("o2n.offline._resolutions", collected_since)
    with pytest.raises(NotFoundError, match=f"begun with version {ref.version} of category board, which was collected"):
        list(score_run(run, store))
    assert run.done() == set()
    with pytest.raises(NotFoundError, match="has no version"):
        _resolutions(QUICK, store, {"board": ref})


def test_a_store_that_cannot_be_reached_is_no_pictures_error(
    published: CategoryStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pinned = pinned_to(published, "checks")
    path = images.find(write(tmp_path / "new", [checks(0)]))[0]
    batch = decoded(pa.table({"path": [str(path)], "category": ["checks"]}), {"checks": 64})
    worker = _Scorer(QUICK, CategoryStore((tmp_path / "unmounted" / "store").as_uri()), pinned, 0.4, None, None)
    with pytest.raises(StoreError, match="is missing"):
        worker(batch)
