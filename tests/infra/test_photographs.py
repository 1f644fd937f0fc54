"""The demo's pictures and the pieces it is made of."""

from pathlib import Path

import numpy as np
import pytest

from infra.local.demo import find_queries, largest_difference, read_offline
from infra.local.photographs import CATEGORIES, write_photographs
from o2n import images
from o2n.errors import CategoryError


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
