"""The demo's pictures and the pieces it is made of."""

from pathlib import Path

import numpy as np
import pytest

from infra.local.demo import AGREEMENT, Query, find_queries, largest_difference
from infra.local.photographs import CATEGORIES, write_photographs
from o2n import images
from o2n.category import VersionRef
from o2n.errors import CategoryError
from o2n.fusion import Score


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photographs")
    write_photographs(folder)
    return folder


def test_every_category_has_references_good_queries_and_defects(photographs: Path) -> None:
    queries = find_queries(photographs)
    for name in CATEGORIES:
        labels = [query.label for query in queries if query.category == name]
        assert labels.count("good") == 6
        assert len(labels) == 12
        assert len(images.find(photographs / name / "train" / "good")) == 4


def test_no_picture_is_used_twice(photographs: Path) -> None:
    digests = [images.digest(images.read(path)) for path in photographs.rglob("*.png")]
    assert len(set(digests)) == len(digests) == 48


def test_the_pictures_are_the_same_every_time(photographs: Path, tmp_path: Path) -> None:
    write_photographs(tmp_path)
    for path in photographs.rglob("*.png"):
        assert np.array_equal(images.read(path), images.read(tmp_path / path.relative_to(photographs)))


def test_a_folder_of_another_layout_is_told(tmp_path: Path) -> None:
    with pytest.raises(CategoryError, match="MVTec"):
        find_queries(tmp_path)


def test_a_score_that_differs_or_is_missing_in_one_way_in_is_seen() -> None:
    def score(value: float) -> Score:
        nothing = np.zeros((1, 1), np.float32)
        return Score(VersionRef("a", "0" * 16), value, 0.1, 0.1, 0.1, nothing, np.zeros((1, 1, 3), np.uint8))

    queries, same = [Query("a", "good", Path("x"))], {"s_p": 0.1, "s_n": 0.1, "s_text": 0.1}
    unit = {"a": np.array([1.0, 1.0, 1.0, 1.0])}
    agree = largest_difference(queries, [score(0.5)], {"x": {"score": 0.5, **same}}, [score(0.5)], unit)
    assert agree <= AGREEMENT
    differ = largest_difference(queries, [score(0.5)], {"x": {"score": 0.5, **same}}, [score(0.5002)], unit)
    assert differ == pytest.approx(0.0002)
    missing = largest_difference(queries, [score(0.5)], {"x": {"score": None, **same}}, [score(0.5)], unit)
    assert not missing <= AGREEMENT
