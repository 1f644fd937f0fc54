"""ELPV: cells of probability 0 and 1, split as the InCTRL benchmark does."""

from pathlib import Path

import pytest

from o2n.data.datasets import DATASETS
from o2n.errors import DataSetError
from tests.o2n.data.datasets.trees import check, kinds, picture

LABELS = [0.0] * 8 + [1.0] * 4 + [0.3333333333333333, 0.6666666666666666]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    lines = []
    for number, probability in enumerate(LABELS, 1):
        path = picture(tmp_path / "images" / f"cell{number:04}.png")
        kind = "mono" if number % 2 else "poly"
        lines.append(f"{path.relative_to(tmp_path)}  {probability}  {kind}")
    (tmp_path / "labels.csv").write_text("\n".join(lines) + "\n")
    return tmp_path


def test_doubtful_cells_are_left_out_and_a_quarter_of_the_good_ones_is_asked(tree: Path) -> None:
    (category,) = DATASETS["elpv"].load(tree)
    check(category)
    assert kinds(category) == {"good": 2, "mono": 2, "poly": 2}
    # numpy.random.RandomState(42).permutation(8) begins with 1 and 5: these are scikit-learn's quarter.
    assert [one.key for one in category.queries[:2]] == ["images/cell0002.png", "images/cell0006.png"]
    assert len(category.normals) == 6


def test_what_is_missing_is_named(tree: Path) -> None:
    (tree / "images" / "cell0003.png").unlink()
    with pytest.raises(DataSetError, match=r"images/cell0003.png: no such file or folder; expected labels.csv with"):
        DATASETS["elpv"].load(tree)
    (tree / "labels.csv").write_text("images/cell0001.png none mono\n")
    with pytest.raises(DataSetError, match=r"labels.csv, line 1: 'images/cell0001.png none mono' is no label"):
        DATASETS["elpv"].load(tree)
    (tree / "labels.csv").write_bytes(b"\xff\xfe no text at all\n")
    with pytest.raises(DataSetError, match=r"labels.csv, line 1: .* is no label"):
        DATASETS["elpv"].load(tree)
    (tree / "labels.csv").unlink()
    with pytest.raises(DataSetError, match=r"labels.csv: no such file"):
        DATASETS["elpv"].load(tree)
