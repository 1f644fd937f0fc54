"""Magnetic tile: a folder for each kind, masks apart."""

from pathlib import Path

import pytest

from o2n.data.datasets import DATASETS
from o2n.errors import DataSetError
from tests.o2n.data.datasets.trees import check, kinds, mask, picture


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for number in range(8):
        picture(tmp_path / "good" / f"exp1_num_{number}.jpg")
    for kind in ("crack", "uneven"):
        for number in range(3):
            picture(tmp_path / kind / f"exp1_num_{number}.jpg")
            mask(tmp_path / "ground_truth" / kind / f"exp1_num_{number}.png")
    return tmp_path


def test_magnetic_tile(tree: Path) -> None:
    (category,) = DATASETS["magnetic-tile"].load(tree)
    check(category)
    assert category.masked
    assert kinds(category) == {"crack": 3, "good": 2, "uneven": 3}
    assert len(category.normals) == 6


def test_what_is_missing_is_named(tree: Path) -> None:
    (tree / "ground_truth" / "crack" / "exp1_num_1.png").unlink()
    with pytest.raises(DataSetError, match=r"ground_truth/crack/exp1_num_1.png: no such file.*ground_truth/KIND"):
        DATASETS["magnetic-tile"].load(tree)
    with pytest.raises(DataSetError, match=r"nowhere/good: no such file or folder; expected good/\*.jpg"):
        DATASETS["magnetic-tile"].load(tree / "nowhere")
