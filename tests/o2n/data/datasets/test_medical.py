"""BrainMRI, HeadCT, OCT2017 and RESC."""

from pathlib import Path

import pytest

from o2n.data.datasets import DATASETS
from o2n.errors import DataSetError
from tests.o2n.data.datasets.trees import check, kinds, mask, picture


def test_brain_mri(tmp_path: Path) -> None:
    for number in range(8):
        picture(tmp_path / "no" / f"{number} no.jpg")
        picture(tmp_path / "yes" / f"Y{number}.JPG")
    (category,) = DATASETS["brainmri"].load(tmp_path)
    check(category)
    assert kinds(category) == {"good": 2, "tumour": 8}
    for path in (tmp_path / "yes").iterdir():
        path.unlink()
    with pytest.raises(DataSetError, match=r"yes: has no pictures; expected no/\*"):
        DATASETS["brainmri"].load(tmp_path)


def test_head_ct(tmp_path: Path) -> None:
    for number in range(12):
        picture(tmp_path / "head_ct" / "head_ct" / f"{number:03}.png")
    rows = [f"{number}, {int(number >= 8)}" for number in range(12)]
    (tmp_path / "labels.csv").write_text("\n".join(["id, hemorrhage", *rows]))
    (category,) = DATASETS["headct"].load(tmp_path)
    check(category)
    assert kinds(category) == {"good": 2, "haemorrhage": 4}
    assert category.queries[0].key == "head_ct/head_ct/001.png"
    (tmp_path / "labels.csv").write_text("\n".join(["id, hemorrhage", *rows[:-1], "11, 2"]))
    with pytest.raises(DataSetError, match=r"labels.csv: ' 2' of picture 11 is no label; expected labels.csv with"):
        DATASETS["headct"].load(tmp_path)
    (tmp_path / "labels.csv").write_text("\n".join(["id, hemorrhage", *rows]))
    (tmp_path / "head_ct" / "head_ct" / "011.png").unlink()
    with pytest.raises(DataSetError, match=r"head_ct/head_ct/011.png: no such file.*labels.csv"):
        DATASETS["headct"].load(tmp_path)


def test_oct2017(tmp_path: Path) -> None:
    for kind in ("NORMAL", "CNV", "DME", "DRUSEN"):
        for part, count in (("train", 3), ("val", 1), ("test", 2)):
            for number in range(count):
                picture(tmp_path / part / kind / f"{kind}-{part}-{number}.jpeg")
    (category,) = DATASETS["oct2017"].load(tmp_path)
    check(category)
    assert kinds(category) == {"CNV": 2, "DME": 2, "DRUSEN": 2, "good": 2}
    assert {one.key.split("/")[0] for one in category.normals} == {"train"}
    assert {one.key.split("/")[0] for one in category.queries} == {"test"}
    (tmp_path / "test" / "DME").rename(tmp_path / "test" / "dme")
    with pytest.raises(DataSetError, match=r"test/DME: no such file or folder; expected train/NORMAL"):
        DATASETS["oct2017"].load(tmp_path)


def test_resc(tmp_path: Path) -> None:
    for number in range(3):
        picture(tmp_path / "train" / "good" / f"{number}.png")
        picture(tmp_path / "test" / "good" / "img" / f"{number}.png")
        picture(tmp_path / "test" / "Ungood" / "img" / f"9{number}.png")
        mask(tmp_path / "test" / "Ungood" / "label" / f"9{number}.png")
    (category,) = DATASETS["resc"].load(tmp_path)
    check(category)
    assert category.masked
    assert kinds(category) == {"good": 3, "oedema": 3}
    (tmp_path / "test" / "Ungood" / "label" / "91.png").unlink()
    with pytest.raises(DataSetError, match=r"Ungood/label/91.png: no such file.*as in BMAD"):
        DATASETS["resc"].load(tmp_path)
    for path in (tmp_path / "test" / "Ungood" / "img").iterdir():
        path.unlink()
    with pytest.raises(DataSetError, match=r"Ungood/img: has no pictures; expected train/good.*as in BMAD"):
        DATASETS["resc"].load(tmp_path)
