"""RegAD (Huang et al., ECCV 2022): pictures of a category brought into one pose before they are compared, by a
network that has learned to do so on other categories.

On the profile's own encoder, which stays as it is, in place of the paper's ResNet. So a picture is turned once, all its
levels alike, not anew after every block; and the paper's loss, the cosine of two pictures at the same place as a small
encoder and predictor see them, will not do: it falls without turning anything, because they learn to see what is the
same everywhere. Here a place must be told from the picture's other places, in the encoder's own features. The Gaussians
are those of the registered features, and it is the map of distances that is turned back.
"""

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from o2n import images
from o2n.evaluation.methods.auxiliary import PROCEDURAL, Auxiliary, digest_of, kept
from o2n.evaluation.methods.encoding import as_grid, patches, scored, side_by_side
from o2n.evaluation.methods.gaussians import PlaceGaussians, chosen_dimensions
from o2n.evaluation.methods.interface import Scores
from o2n.foundation import Foundation, load_foundation
from o2n.images import Picture
from o2n.poses import inverse, moved, pose_of, warp
from o2n.profiles import Profile

# Outcomes are kept for as long as this stays the same: raise it when what is computed changes.
REVISION = 1

# The most that a picture is turned (radians) and moved (of half a side).
MOST_ANGLE, MOST_SHIFT = math.pi / 4, 0.3
DIMENSIONS = 100
PICTURES, VIEWS = 8, 3  # of each auxiliary category, and moved views of each
TEMPERATURE = 0.1
SHOTS = 2  # pictures that a query is registered with in training
BATCH = 16


class Network(nn.Module):
    """The spatial transformer: where to look at a picture. It starts by turning nothing.

    Args: centre: float32 (C, g, g), the mean of all auxiliary features at each place, which is taken off: it says where
        a token is, not what it shows.
    """

    centre: Tensor

    def __init__(self, centre: Tensor) -> None:
        super().__init__()
        self.register_buffer("centre", centre.clone())
        channels, side, _ = centre.shape
        self.look = nn.Sequential(
            nn.Conv2d(channels, 32, 3, padding=1),
            nn.BatchNorm2d(32),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(32, 16, 3, padding=1),
            nn.BatchNorm2d(16),
            nn.ReLU(),
            nn.Flatten(),
        )
        last = nn.Linear(128, 3)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.pose = nn.Sequential(nn.Linear(16 * (side // 2) ** 2, 128), nn.ReLU(), last)

    def forward(self, grid: Tensor) -> tuple[Tensor, Tensor]:
        """Features (B, C, g, g), registered, and the pose: (B, 2, 3), from registered places to this picture's."""
        away = grid - self.centre
        angle, x, y = self.pose(self.look(away)).tanh().unbind(dim=-1)
        cos, sin = (MOST_ANGLE * angle).cos(), (MOST_ANGLE * angle).sin()
        rows = [cos, -sin, MOST_SHIFT * x, sin, cos, MOST_SHIFT * y]
        pose = torch.stack(rows, dim=-1).unflatten(-1, (2, 3))
        return warp(away, pose), pose


class RegAD:
    """Args: auxiliary: what registration is learned on, of its good pictures. steps: of the training."""

    name = "RegAD"

    def __init__(self, profile: Profile, auxiliary: Auxiliary = PROCEDURAL, steps: int = 500) -> None:
        self._foundation, self.trained_on = load_foundation(profile), auxiliary.name
        # Whatever changes the outcome of the training must change these words.
        settings = f"1; {self._foundation.identity}; {profile.comparing}; {auxiliary.name}; {steps}; {profile.seed}"

        def trained() -> dict[str, Tensor]:
            looked = [look(self._foundation, one.good, seed) for seed, one in enumerate(auxiliary.categories())]
            return train(looked, steps, profile.seed)[0].state_dict()

        weights = kept("regad", settings, trained)
        self.network = Network(weights["centre"]).eval()
        self.network.load_state_dict(weights)
        self.weights = digest_of(weights)

    def fit(self, references: list[Picture], object_word: str) -> "RegADFitted":
        return RegADFitted(self._foundation, self.network, references)


class RegADFitted:
    """RegAD that knows one category."""

    def __init__(self, foundation: Foundation, network: Network, references: list[Picture]) -> None:
        self._foundation, self._network = foundation, network
        known = [images.resize(picture, foundation.comparing.resolution) for picture in references]
        registered, _ = self._register(known + moved(known, support_poses()))
        self._gaussians = PlaceGaussians(registered)

    def score(self, pictures: list[Picture]) -> Scores:
        registered, pose = self._register(pictures)
        distance = self._gaussians.distance(registered)
        back = warp(as_grid(distance.float())[:, None], inverse(pose))
        return scored(distance.amax(dim=-1), back[:, 0].flatten(1))

    @torch.no_grad()
    def _register(self, pictures: list[Picture]) -> tuple[Tensor, Tensor]:
        registered, pose = self._network(grids(self._foundation, pictures))
        return registered.flatten(2).transpose(1, 2), pose


def look(foundation: Foundation, good: list[Picture], seed: int) -> Tensor:
    """Features of good pictures of one category and of moved views: float16 (1 + V, N, C, g, g)."""
    rng = np.random.default_rng([foundation.profile.seed, seed])
    shown = [images.resize(picture, foundation.comparing.resolution) for picture in good[:PICTURES]]
    poses = [
        pose_of(rng.uniform(-MOST_ANGLE, MOST_ANGLE), *rng.uniform(-MOST_SHIFT, MOST_SHIFT, 2)) for _ in range(VIEWS)
    ]
    return grids(foundation, shown + moved(shown, poses)).half().unflatten(0, (1 + VIEWS, len(shown)))


def train(looked: list[Tensor], steps: int, seed: int) -> tuple[Network, list[float]]:
    """A network that has learned to register the categories of `looked`, and its loss at every step."""
    rng = np.random.default_rng(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = Network(torch.cat([one.flatten(0, 1).float() for one in looked]).mean(dim=0)).train()
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(1, steps))
    losses = []
    for _ in range(steps):
        drawn = []
        for features in (looked[index] for index in rng.integers(len(looked), size=BATCH)):
            pictures = rng.choice(features.shape[1], 1 + SHOTS, replace=False)
            drawn.append(features[rng.integers(len(features), size=1 + SHOTS), pictures])
        both = torch.stack(drawn).float()
        loss = registration_loss(network, both[:, 0], both[:, 1:])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
    return network.eval(), losses


def registration_loss(network: Network, query: Tensor, support: Tensor) -> Tensor:
    """Both pass through the same network, and each place of one must be known by the same place of the other.

    Args: query (B, C, g, g); support (B, K, C, g, g).
    """
    a = network(query)[0]
    b = network(support.flatten(0, 1))[0].unflatten(0, support.shape[:2]).mean(dim=1)
    a, b = (F.normalize(x.flatten(2), dim=1) for x in (a, b))
    likeness = torch.einsum("bcg,bch->bgh", a, b) / TEMPERATURE
    same = torch.arange(likeness.shape[-1]).expand(len(likeness), -1)
    return (F.cross_entropy(likeness, same) + F.cross_entropy(likeness.transpose(1, 2), same)) / 2


def grids(foundation: Foundation, pictures: list[Picture]) -> Tensor:
    """Patch features, `DIMENSIONS` of all levels' together, laid out as pictures: float32 (N, C, g, g)."""
    found = side_by_side(patches(foundation.comparing, pictures, foundation.profile.comparing.levels))
    return as_grid(found[..., chosen_dimensions(found.shape[-1], DIMENSIONS)].transpose(1, 2).contiguous())


def support_poses() -> list[Tensor]:
    """The poses in which references are shown once more as the paper augments them: turned, moved, mirrored."""
    angles = [k * math.pi / 16 for k in (-4, -3, -2, -1, 1, 2, 3, 4)] + [k * math.pi / 2 for k in (1, 2, 3)]
    shifts = [(a * x, a * y) for a in (0.1, 0.2) for x in (-1, 1) for y in (-1, 1)]
    return [*map(pose_of, angles), *(pose_of(0, x, y) for x, y in shifts), pose_of(0, mirrored=True)]
