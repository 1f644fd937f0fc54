"""MVTec AD's layout: all 15 categories of the data set itself, or whatever another folder has."""

from pathlib import Path

import pytest

from o2n.data.datasets import DATASETS
from o2n.data.datasets.mvtec import CATEGORIES, load_folder
from o2n.errors import DataSetError
from tests.o2n.data.datasets.trees import check, kinds, mask, picture


def tree(root: Path, name: str, *, masks: bool = True) -> Path:
    for number in range(3):
        picture(root / name / "train" / "good" / f"{number:03}.png")
        picture(root / name / "test" / "good" / f"{number:03}.png")
        picture(root / name / "test" / "crack" / f"{number:03}.png")
        if masks:
            mask(root / name / "ground_truth" / "crack" / f"{number:03}_mask.png")
    return root / name


def test_mvtec_ad(tmp_path: Path) -> None:
    for name in CATEGORIES:
        tree(tmp_path, name)
    loaded = DATASETS["mvtec"].load(tmp_path)
    assert [one.name for one in loaded] == list(CATEGORIES)
    check(loaded[0])
    assert kinds(loaded[0]) == {"crack": 3, "good": 3}
    assert loaded[0].masked
    assert next(one for one in loaded if one.name == "metal_nut").object_word == "metal nut"


def test_a_missing_category_of_mvtec_ad_is_named(tmp_path: Path) -> None:
    for name in CATEGORIES[:-1]:
        tree(tmp_path, name)
    with pytest.raises(DataSetError, match=r"zipper/train/good: no such file or folder; expected .*ground_truth/KIND"):
        DATASETS["mvtec"].load(tmp_path)


@pytest.mark.parametrize("missing", ["ground_truth", "ground_truth/crack", "ground_truth/crack/000_mask.png"])
def test_a_missing_mask_of_mvtec_ad_is_named(missing: str, tmp_path: Path) -> None:
    for name in CATEGORIES:
        tree(tmp_path, name)
    (tmp_path / "carpet" / missing).rename(tmp_path / "away")
    with pytest.raises(DataSetError, match=r"carpet/ground_truth/crack/000_mask.png: no such .*; expected all 15 cat"):
        DATASETS["mvtec"].load(tmp_path)


def test_any_folder(tmp_path: Path) -> None:
    bolt, nut = tree(tmp_path, "bolt"), tree(tmp_path, "nut", masks=False)
    (tmp_path / "notes").mkdir()
    loaded = load_folder(tmp_path)
    assert [one.name for one in loaded] == ["bolt", "nut"]
    assert [one.masked for one in loaded] == [True, False]
    (alone,) = load_folder(bolt)
    assert [one.key for one in alone.queries] == [one.key for one in loaded[0].queries]
    check(load_folder(nut)[0])


def test_masks_may_be_called_as_their_pictures(tmp_path: Path) -> None:
    folder = tree(tmp_path, "bolt")
    for path in (folder / "ground_truth" / "crack").iterdir():
        path.rename(path.with_name(path.name.replace("_mask", "")))
    assert load_folder(tmp_path)[0].masked


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    folder = tree(tmp_path, "bolt")
    (folder / "ground_truth" / "crack" / "001_mask.png").unlink()
    with pytest.raises(DataSetError, match=r"ground_truth/crack/001_mask.png: no such file"):
        load_folder(tmp_path)
    with pytest.raises(DataSetError, match="no CATEGORY/train/good"):
        load_folder(folder / "test")


def test_queries_of_one_kind_alone_are_refused(tmp_path: Path) -> None:
    folder = tree(tmp_path, "bolt")
    for path in (folder / "test" / "good").iterdir():
        path.unlink()
    with pytest.raises(DataSetError, match="bolt/test: needs pictures of `good` and of another kind"):
        load_folder(tmp_path)
