"""Gaussians at every place: the distance is Mahalanobis', and a place knows itself alone."""

import numpy as np
import pytest
import torch
from scipy.spatial.distance import mahalanobis

from o2n.evaluation.methods.gaussians import REGULARISATION, PlaceGaussians, chosen_dimensions


def test_the_distance_is_that_of_scipy() -> None:
    generator = torch.Generator().manual_seed(0)
    known, asked = torch.randn(9, 5, 4, generator=generator), torch.randn(3, 5, 4, generator=generator)
    found = PlaceGaussians(known).distance(asked)
    for place in range(5):
        normal = known[:, place].double().numpy()
        precision = np.linalg.inv(np.cov(normal.T) + REGULARISATION * np.eye(4))
        for row in range(3):
            expected = mahalanobis(asked[row, place].numpy(), normal.mean(axis=0), precision)
            assert float(found[row, place]) == pytest.approx(expected, rel=1e-5)


def test_what_is_ordinary_at_one_place_is_not_at_another() -> None:
    known = torch.zeros(6, 2, 3)
    known[:, 0] = 1.0
    known += 0.01 * torch.randn(known.shape, generator=torch.Generator().manual_seed(0))
    at_home, swapped = PlaceGaussians(known).distance(torch.stack([known[0], known[0].flip(0)]))
    assert (swapped > 5 * at_home).all()


def test_one_picture_is_enough_for_a_distance() -> None:
    assert torch.isfinite(PlaceGaussians(torch.ones(1, 4, 3)).distance(torch.zeros(2, 4, 3))).all()


def test_the_chosen_dimensions_are_always_the_same() -> None:
    chosen = chosen_dimensions(384)
    assert chosen.tolist() == chosen_dimensions(384).tolist()
    assert len(set(chosen.tolist())) == 100
    assert chosen_dimensions(64).tolist() == list(range(64))


def test_the_distance_is_that_of_anomalib() -> None:
    padim = pytest.importorskip("anomalib.models.image.padim.torch_model")
    generator = torch.Generator().manual_seed(1)
    known, asked = torch.randn(6, 20, 4, generator=generator), torch.randn(3, 20, 4, generator=generator)

    def grid(features: torch.Tensor) -> torch.Tensor:
        return features.transpose(1, 2).unflatten(2, (4, 5))

    stats = padim.MultiVariateGaussian().fit(grid(known).contiguous())
    expected = padim.AnomalyMapGenerator.compute_distance(grid(asked), stats).flatten(1)
    found = PlaceGaussians(known).distance(asked).float()
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=0)  # it adds another 1e-5 to the covariance
