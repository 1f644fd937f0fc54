"""A Gaussian of the features at every place of the grid: what PaDiM and RegAD measure a picture by."""

import torch
from torch import Tensor

# Added to the covariance's diagonal (PaDiM, eq. 1), where features vary by about 1.
REGULARISATION = 0.01


class PlaceGaussians:
    """Mean and covariance at each of G places."""

    def __init__(self, features: Tensor) -> None:
        """Args: features: float32 (N, G, D) of normal pictures."""
        wide = features.double()
        self._mean = wide.mean(dim=0)
        away = wide - self._mean
        covariance = torch.einsum("ngd,nge->gde", away, away) / max(1, len(wide) - 1)
        covariance += REGULARISATION * torch.eye(wide.shape[-1])
        self._root = torch.linalg.cholesky(covariance)

    def distance(self, features: Tensor) -> Tensor:
        """Mahalanobis distance of each place (PaDiM, eq. 2): float32 (B, G, D) -> float64 (B, G)."""
        away = (features.double() - self._mean).permute(1, 2, 0)
        return torch.linalg.solve_triangular(self._root, away, upper=False).norm(dim=1).T.contiguous()


def chosen_dimensions(width: int, count: int = 100) -> Tensor:
    """`count` dimensions drawn at random, always the same ones (PaDiM, section III; its ResNet-18 has 100)."""
    return torch.randperm(width, generator=torch.Generator().manual_seed(0))[:count].sort().values
