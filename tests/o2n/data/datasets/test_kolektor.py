"""KolektorSDD: photographs cut in three, a third being bad if its part of the mask is."""

from pathlib import Path

import numpy as np
import pytest

from o2n import images
from o2n.data.datasets import DATASETS
from o2n.errors import DataSetError
from tests.o2n.data.datasets.trees import check, kinds, mask, picture


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for item in range(1, 5):
        for part in range(2):
            picture(tmp_path / f"kos{item:02}" / f"Part{part}.jpg", 92, 30)
            # Of one photograph the defect reaches over the first cut, at row 30.
            rows = slice(26, 36) if (item, part) == (1, 0) else slice(0, 0)
            mask(tmp_path / f"kos{item:02}" / f"Part{part}_label.bmp", 92, 30, rows)
    return tmp_path


def test_thirds(tree: Path) -> None:
    (category,) = DATASETS["kolektor"].load(tree)
    check(category)
    assert category.masked
    assert kinds(category) == {"defect": 2, "good": 6}
    assert len(category.normals) == 16
    bad = {one.key: one for one in category.queries if one.anomalous}
    assert sorted(bad) == ["kos01/Part0.jpg#0", "kos01/Part0.jpg#1"]
    whole = images.read(tree / "kos01" / "Part0.jpg")
    both = np.concatenate([bad[key].read() for key in sorted(bad)])
    assert (both == whole[: len(both)]).all()
    assert [int(bad[key].mask().any(axis=1).sum()) for key in sorted(bad)] == [4, 6]


def test_a_missing_mask_is_named(tree: Path) -> None:
    (tree / "kos02" / "Part1_label.bmp").unlink()
    with pytest.raises(DataSetError, match=r"kos02/Part1_label.bmp: no such file.*PartN_label.bmp beside it"):
        DATASETS["kolektor"].load(tree)
