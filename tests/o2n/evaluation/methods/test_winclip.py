"""WinCLIP: what a window is, how windows meet in a patch, and that it works without and better with references."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch

from o2n.data.procedural import Category, draw
from o2n.evaluation.methods.encoding import wholes
from o2n.evaluation.methods.winclip import WINDOWS, WinCLIP, cover, harmonic, kept_tokens, look, unlikeness
from o2n.evaluation.metrics import auroc
from o2n.foundation import Foundation
from tests.helpers import QUICK, checks, unit


def test_windows_cover_the_grid_at_every_place() -> None:
    covered = cover((5, 4), 2)
    assert covered.shape == (4 * 3, 20)
    assert (covered.sum(dim=1) == 4).all()
    assert covered.sum(dim=0).view(5, 4)[:2, :2].tolist() == [[1, 2], [2, 4]]
    kept = kept_tokens((5, 4), 2)
    assert kept[0].tolist() == [0, 1, 2, 5, 6]  # the class token, then two rows of two


def test_a_patch_has_the_harmonic_mean_of_its_windows() -> None:
    values = torch.tensor([[0.2, 0.5, 0.4, 1.0]])
    met = harmonic(values, cover((3, 3), 2)).view(3, 3)
    assert float(met[0, 0]) == pytest.approx(0.2)
    assert float(met[1, 1]) == pytest.approx(4 / (1 / 0.2 + 1 / 0.5 + 1 / 0.4 + 1))


def test_a_window_does_not_see_what_is_outside(foundation: Foundation) -> None:
    picture, other = checks(0), checks(0)
    other[32:] = 255
    one, two = look(foundation.clip, [picture, other]).windows[0]
    same = (one - two).abs().amax(dim=-1).view(15, 15) < 1e-5
    assert same[:7].all()  # 2 rows of patches, of 4 pixels each, end before row 32
    assert not same[7:].any()


def test_whole_pictures_are_seen_as_clip_sees_them(foundation: Foundation) -> None:
    pictures = [checks(0), checks(1)]
    torch.testing.assert_close(look(foundation.clip, pictures).whole, wholes(foundation.clip, pictures))


def test_what_is_seen_in_half_precision_is_compared_in_full(foundation: Foundation) -> None:
    """As on a GPU, where the encoder is cast once it is loaded."""
    cast = replace(foundation.clip, model=copy.deepcopy(foundation.clip.model))
    cast.seeing.to(torch.bfloat16)
    seen = look(cast, [checks(0)])
    assert {seen.whole.dtype, seen.patches.dtype, *(one.dtype for one in seen.windows)} == {torch.float32}
    torch.testing.assert_close(seen.whole, look(foundation.clip, [checks(0)]).whole, atol=0.05, rtol=0)


def test_it_tells_without_references_and_better_with_them() -> None:
    zero, few = [], []
    for family in ("twill", "hexagons"):
        category = Category(family, 2026)
        references, shown = draw(category, 4, 0, 0), draw(category, 8, 8, 1)
        for found, known in ((zero, []), (few, list(references.pictures))):
            scored = WinCLIP(QUICK).fit(known, category.word).score(list(shown.pictures))
            found.append(auroc(scored.scores, shown.labels))
    assert np.mean(zero) > 0.6
    assert np.mean(few) > np.mean(zero)


@pytest.mark.parametrize("side", WINDOWS)
def test_windows_are_read_and_compared_as_in_anomalib(side: int) -> None:
    utils = pytest.importorskip("anomalib.models.image.winclip.utils")
    grid = (5, 6)
    windows, covered = utils.make_masks(grid, side), cover(grid, side)
    assert [row.nonzero()[:, 0].tolist() for row in covered] == windows.T.tolist()
    known, asked = unit(4, len(covered), 8), unit(3, len(covered), 8, seed=1)
    unlike = unlikeness(asked, known)
    torch.testing.assert_close(unlike, utils.visual_association_score(asked, known))
    expected = utils.harmonic_aggregation(unlike, grid, windows)
    torch.testing.assert_close(harmonic(unlike, covered).unflatten(1, grid), expected)
