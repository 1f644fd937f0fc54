"""Ray Data scoring: the same scores as the library, rows instead of failures, categories mixed."""

from pathlib import Path

import pytest
import ray

from o2n import images
from o2n.calibration import decide
from o2n.errors import NotFoundError
from o2n.offline import SCHEMA, pin_versions, score_dataset
from o2n.onboard import onboard
from o2n.store import CategoryStore
from o2n.triplet import TripletScorer
from tests.helpers import QUICK, checks, stripes, write

pytestmark = pytest.mark.cluster


@pytest.fixture(scope="module", autouse=True)
def local_ray() -> None:
    ray.init(address="local", num_cpus=2, include_dashboard=False, logging_level="warning")
    yield
    ray.shutdown()


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
    pinned = pin_versions(published, ["checks", "stripes", "spoilt"])
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


def test_an_unknown_category_is_told_before_anything_starts(published: CategoryStore) -> None:
    with pytest.raises(NotFoundError, match="nuts"):
        pin_versions(published, ["checks", "nuts"])
