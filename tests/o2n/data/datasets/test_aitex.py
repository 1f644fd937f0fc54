"""AITEX: fabrics cut into tiles; of a defective one only the tiles that its mask touches count."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from o2n.data.datasets import DATASETS
from o2n.errors import DataSetError
from tests.o2n.data.datasets.trees import check, kinds, picture

WIDTH = 4 * 256


def drawn(path: Path, columns: slice) -> None:
    path.parent.mkdir(exist_ok=True)
    values = np.zeros((256, WIDTH), np.uint8)
    values[100:110, columns] = 255
    Image.fromarray(values).save(path)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for fabric in ("2306881-210020u", "2306894-210033u"):
        picture(tmp_path / "NODefect_images" / fabric / "0001_000_05.png", 256, WIDTH)
    for name in ("0001_002_00", "0044_019_04", "0100_025_08"):
        picture(tmp_path / "Defect_images" / f"{name}.png", 256, WIDTH)
    drawn(tmp_path / "Mask_images" / "0001_002_00_mask.png", slice(250, 260))
    # As published: one picture has two masks, and one has none.
    drawn(tmp_path / "Mask_images" / "0044_019_04_mask1.png", slice(0, 10))
    drawn(tmp_path / "Mask_images" / "0044_019_04_mask2.png", slice(1000, 1010))
    return tmp_path


def test_tiles(tree: Path) -> None:
    (category,) = DATASETS["aitex"].load(tree)
    check(category)
    assert category.masked
    assert kinds(category) == {"broken end": 2, "fuzzyball": 2, "good": 2}
    assert len(category.normals) == 6
    assert {one.read().shape for one in category.queries} == {(256, 256, 3)}
    bad = [one.key for one in category.queries if one.kind == "fuzzyball"]
    assert bad == ["Defect_images/0044_019_04.png#0", "Defect_images/0044_019_04.png#3"]


def test_of_a_defective_picture_the_narrower_rest_counts_too(tree: Path) -> None:
    for folder in ("Defect_images", "Mask_images", "NODefect_images/2306881-210020u"):
        for path in (tree / folder).iterdir():
            with Image.open(path) as opened:
                opened.crop((0, 0, WIDTH - 20, 256)).save(path)
    (category,) = DATASETS["aitex"].load(tree)
    check(category)
    sizes = {one.key: one.read().shape[:2] for one in (*category.normals, *category.queries)}
    assert sizes.pop("Defect_images/0044_019_04.png#3") == (256, 236)
    assert set(sizes.values()) == {(256, 256)}
    assert kinds(category) == {"broken end": 2, "fuzzyball": 2, "good": 2}
    assert len(category.normals) == 5  # of good pictures whole tiles alone


def test_folders_once_more_within_themselves(tree: Path) -> None:
    for name in ("Defect_images", "Mask_images"):
        (tree / name).rename(tree / "inner")
        (tree / name).mkdir()
        (tree / "inner").rename(tree / name / name)
    (category,) = DATASETS["aitex"].load(tree)
    assert kinds(category) == {"broken end": 2, "fuzzyball": 2, "good": 2}


def test_what_is_missing_is_named(tree: Path) -> None:
    picture(tree / "Defect_images" / "strange.png", 256, WIDTH)
    with pytest.raises(DataSetError, match=r"strange.png: its name has no known code"):
        DATASETS["aitex"].load(tree)
    for path in (tree / "Mask_images").iterdir():
        path.unlink()
    (tree / "Mask_images").rmdir()
    with pytest.raises(DataSetError, match=r"Mask_images: no such file or folder; expected NODefect_images/FABRIC"):
        DATASETS["aitex"].load(tree)
