"""Procedural pictures: deterministic, exact twins and masks, parts that never mix."""

import numpy as np
import pytest
from scipy import ndimage

from o2n.data.defects import EVALUATION_DEFECTS, TRAINING_DEFECTS, VALIDATION_DEFECTS
from o2n.data.families import FAMILIES, pose  # families are filled in by the import below
from o2n.data.procedural import (
    EVALUATION,
    TRAINING,
    VALIDATION,
    Category,
    abnormal_captions,
    draw,
    normal_captions,
    spoil_photographs,
)


def test_there_is_enough_and_the_three_parts_share_nothing() -> None:
    assert len(FAMILIES) >= 40
    assert len(EVALUATION) >= 10
    assert len(TRAINING_DEFECTS) >= 10
    assert sorted(TRAINING + VALIDATION + EVALUATION) == sorted(FAMILIES)
    assert len(set(TRAINING) | set(VALIDATION) | set(EVALUATION)) == len(TRAINING) + len(VALIDATION) + len(EVALUATION)
    kinds = [*TRAINING_DEFECTS, *VALIDATION_DEFECTS, *EVALUATION_DEFECTS]
    assert len(set(kinds)) == len(kinds)
    words = [family.word for family in FAMILIES.values()]
    assert len(set(words)) == len(words)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_picture_and_its_twin_differ_inside_the_mask_alone(family: str) -> None:
    drawn = draw(Category(family, 3), 3, 5, 11)
    assert drawn.pictures.shape == drawn.twins.shape == (8, 64, 64, 3)
    assert drawn.pictures.dtype == np.uint8
    assert drawn.labels.tolist() == [False] * 3 + [True] * 5
    assert not drawn.masks[:3].any()
    assert (drawn.pictures[:3] == drawn.twins[:3]).all()
    assert drawn.masks[3:].any(axis=(1, 2)).all()
    difference = np.abs(drawn.pictures.astype(int) - drawn.twins).max(axis=-1)
    for mask, differs in zip(drawn.masks[3:], difference[3:], strict=True):
        # A camera out of focus carries the defect two pixels further.
        outside = ~ndimage.binary_dilation(mask, iterations=2)
        assert differs[mask].mean() > 12
        assert differs[outside].max(initial=0) <= 30


def test_the_same_arguments_give_the_same_pixels_and_others_do_not() -> None:
    category = Category("gear", 5)
    first, again = draw(category, 2, 2, 7), draw(category, 2, 2, 7)
    assert (first.pictures == again.pictures).all()
    assert (first.masks == again.masks).all()
    assert first.kinds == again.kinds
    assert (first.pictures != draw(category, 2, 2, 8).pictures).any()
    assert (first.pictures != draw(Category("gear", 6), 2, 2, 7).pictures).any()


def test_pictures_of_a_category_are_alike_and_yet_differ() -> None:
    """Else there would be nothing to learn, or nothing to be wrong about."""
    for family in ("nut", "bricks", "board"):
        own = draw(Category(family, 1), 8, 0, 2).pictures.astype(float)
        other = draw(Category(family, 2), 8, 0, 2).pictures.astype(float)
        assert np.abs(own[0] - own[1]).mean() > 2
        assert np.abs(own.mean(axis=(0, 1, 2)) - other.mean(axis=(0, 1, 2))).max() > 3


@pytest.mark.parametrize("family", FAMILIES)
def test_what_makes_a_category_owes_nothing_to_its_single_pictures(family: str) -> None:
    """Else references and queries that are drawn apart could show two different products."""
    kind = FAMILIES[family]
    for category in range(20):
        ends = set()
        for picture in (0, 1):
            style, own = np.random.default_rng([3, category]), np.random.default_rng([4, category, picture])
            x, y = pose(kind, 1, 16, np.random.default_rng(5), own)
            kind.draw(x, y, style, own)
            ends.add(style.uniform())
        assert len(ends) == 1


@pytest.mark.parametrize("kind", [*TRAINING_DEFECTS, *VALIDATION_DEFECTS, *EVALUATION_DEFECTS])
def test_every_kind_of_defect_shows(kind: str) -> None:
    defects = TRAINING_DEFECTS | VALIDATION_DEFECTS | EVALUATION_DEFECTS
    shown = 0
    for family in ("board", "flange", "tiles", "chip"):
        drawn = draw(Category(family, 1), 0, 6, 5, defects={kind: defects[kind]})
        shown += drawn.kinds.count(kind)
    assert shown >= 6  # what does not show on a part is made a plain hole


def test_other_sizes() -> None:
    assert draw(Category("cable", 1), 1, 1, 2, size=96).pictures.shape == (2, 96, 96, 3)


@pytest.mark.parametrize("count", [6, 70])  # fewer and more than they have rows of pixels
def test_real_photographs_are_spoilt_inside_the_mask_alone(count: int) -> None:
    rng = np.random.default_rng(0)
    pictures = rng.integers(60, 200, (count, 64, 64, 3), dtype=np.uint8)
    spoilt, masks = spoil_photographs(pictures, seed=1)
    assert masks.any(axis=(1, 2)).all()
    outside = np.abs(spoilt.astype(int) - pictures)[~masks]
    assert outside.max() <= 17  # smaller than what counts as changed


def test_captions_say_normal_or_not() -> None:
    normal, abnormal = normal_captions("gear"), abnormal_captions("gear")
    assert "a photo of normal gear" in normal
    assert all("gear" in caption for caption in normal + abnormal)
    assert not set(normal) & set(abnormal)
