"""VisA with its published one-class split."""

from pathlib import Path

import pytest

from o2n.data.datasets import DATASETS
from o2n.errors import DataSetError
from tests.o2n.data.datasets.trees import check, kinds, visa


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    return visa(tmp_path)


def test_visa(tree: Path) -> None:
    loaded = DATASETS["visa"].load(tree)
    assert len(loaded) == 12
    for category in loaded:
        check(category)
        assert category.masked
        assert len(category.normals) == 2
        assert kinds(category) == {"anomaly": 1, "good": 1}


def test_what_is_missing_is_named(tree: Path) -> None:
    (tree / "candle" / "Data" / "Masks" / "Anomaly" / "000.png").unlink()
    with pytest.raises(DataSetError, match=r"candle/Data/Masks/Anomaly/000.png: no such file.*split_csv/1cls.csv"):
        DATASETS["visa"].load(tree)
    table = tree / "split_csv" / "1cls.csv"
    table.write_text(table.read_text().replace("object,", "thing,"))
    with pytest.raises(DataSetError, match="unknown column or value 'object'"):
        DATASETS["visa"].load(tree)
    table.unlink()
    with pytest.raises(DataSetError, match=r"1cls.csv: no such file or folder; expected split_csv/1cls.csv with"):
        DATASETS["visa"].load(tree)


def test_an_object_without_pictures_is_named(tree: Path) -> None:
    table = tree / "split_csv" / "1cls.csv"
    table.write_text("\n".join(row for row in table.read_text().splitlines() if not row.startswith("pcb4,train")))
    with pytest.raises(DataSetError, match="too few rows of pcb4"):
        DATASETS["visa"].load(tree)
