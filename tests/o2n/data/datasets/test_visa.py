"""VisA with its published one-class split."""

from pathlib import Path

import pytest

from o2n.data.datasets import DATASETS
from o2n.data.datasets.visa import WORDS
from o2n.errors import DataSetError
from tests.o2n.data.datasets.trees import check, kinds, mask, picture


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    rows = ["object,split,label,image,mask"]
    for name in WORDS:
        for split, number in (("train", 0), ("train", 1), ("test", 2)):
            image = picture(tmp_path / name / "Data" / "Images" / "Normal" / f"{number:04}.JPG")
            rows.append(f"{name},{split},normal,{image.relative_to(tmp_path)},")
        image = picture(tmp_path / name / "Data" / "Images" / "Anomaly" / "000.JPG")
        drawn = mask(tmp_path / name / "Data" / "Masks" / "Anomaly" / "000.png")
        rows.append(f"{name},test,anomaly,{image.relative_to(tmp_path)},{drawn.relative_to(tmp_path)}")
    (tmp_path / "split_csv").mkdir()
    (tmp_path / "split_csv" / "1cls.csv").write_text("\n".join(rows) + "\n")
    return tmp_path


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
