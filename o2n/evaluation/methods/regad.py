"""RegAD (Huang et al., ECCV 2022): pictures of a category brought into one pose before they are compared, by a
network that has learned to do so on other categories.

On the profile's own encoder, which stays as it is, in place of the paper's ResNet. Its tokens carry their places, so a
picture is turned once, all its levels alike, not anew after every block. The paper's loss, the cosine of two pictures'
features at the same place, falls as well without turning anything when what they are seen by is all that learns: so a
place must also be told from the picture's other places. The Gaussians are those of the turned features, and it is the
map of distances that is turned back.
"""

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from o2n import images
from o2n.evaluation.methods.auxiliary import PROCEDURAL, Auxiliary, kept
from o2n.evaluation.methods.encoding import as_grid, patches, scored, side_by_side
from o2n.evaluation.methods.gaussians import PlaceGaussians, chosen_dimensions
from o2n.evaluation.methods.interface import Scored
from o2n.foundation import ClipModel, Foundation, load_foundation, to_pictures, to_unit
from o2n.images import Picture
from o2n.profiles import Profile

# The most that a picture is turned (radians), moved (of half a side) and scaled: without bounds the network would
# look at one flat spot, where all pictures are alike.
MOST_ANGLE, MOST_SHIFT, MOST_ZOOM = math.pi / 4, 0.3, 0.2
DIMENSIONS = 100
PICTURES, VIEWS = 8, 3  # of each auxiliary category, and moved views of each
TEMPERATURE = 0.1
SHOTS = 2  # pictures that a query is registered with in training
BATCH = 16


class Transformer(nn.Module):
    """The spatial transformer: features -> where to look. It starts by turning nothing."""

    def __init__(self, channels: int, side: int) -> None:
        super().__init__()
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
        self.pose = nn.Sequential(nn.Linear(16 * (side // 2) ** 2, 128), nn.ReLU(), nn.Linear(128, 5))
        nn.init.zeros_(self.pose[2].weight)
        nn.init.zeros_(self.pose[2].bias)

    def forward(self, grid: Tensor) -> Tensor:
        """Features (B, C, g, g) -> (B, 2, 3), from places of the registered picture to places of this one."""
        angle, x, y, wide, high = self.pose(self.look(grid)).tanh().unbind(dim=-1)
        cos, sin = (MOST_ANGLE * angle).cos(), (MOST_ANGLE * angle).sin()
        wide, high = 1 + MOST_ZOOM * wide, 1 + MOST_ZOOM * high
        rows = [cos * wide, -sin * high, MOST_SHIFT * x, sin * wide, cos * high, MOST_SHIFT * y]
        return torch.stack(rows, dim=-1).unflatten(-1, (2, 3))


class Network(nn.Module):
    """The transformer, and what it is trained with: the Siamese encoder and predictor."""

    def __init__(self, channels: int, side: int) -> None:
        super().__init__()
        self.transformer = Transformer(channels, side)
        self.encoder = nn.Sequential(_pointwise(channels, 128), _pointwise(128, 128), nn.Conv2d(128, 128, 1))
        self.predictor = nn.Sequential(_pointwise(128, 128), nn.Conv2d(128, 128, 1))

    def register(self, grid: Tensor) -> tuple[Tensor, Tensor]:
        """Features (B, C, g, g), turned, and how."""
        pose = self.transformer(grid)
        return warp(grid, pose), pose

    def loss(self, query: Tensor, support: Tensor) -> Tensor:
        """Both registered, each place of one picture predicted from the same place of the other, told from its other
        places.

        Args: query (B, C, g, g); support (B, K, C, g, g).
        """
        z1 = self.encoder(self.register(query)[0])
        z2 = self.encoder(self.register(support.flatten(0, 1))[0].unflatten(0, support.shape[:2]).mean(dim=1))
        return (_told_apart(self.predictor(z1), z2.detach()) + _told_apart(self.predictor(z2), z1.detach())) / 2


class RegAD:
    """Args: auxiliary: what registration is learned on, of its good pictures. steps: of the training."""

    name = "RegAD"

    def __init__(self, profile: Profile, auxiliary: Auxiliary = PROCEDURAL, steps: int = 400) -> None:
        self._foundation, self.trained_on = load_foundation(profile), auxiliary.name
        # Whatever changes the outcome of the training must change these words.
        settings = f"1; {self._foundation.identity}; {profile.encoder}; {auxiliary.name}; {steps}; {profile.seed}"

        def trained() -> dict[str, Tensor]:
            looked = [look(self._foundation, one.good, seed) for seed, one in enumerate(auxiliary.categories())]
            return train(looked, steps, profile.seed)[0].state_dict()

        visual = self._foundation.clip.model.visual
        channels = min(DIMENSIONS, len(profile.encoder.levels) * visual.transformer.width)
        self._network = Network(channels, visual.grid_size[0]).eval()
        self._network.load_state_dict(kept("regad", settings, trained))

    def fit(self, references: list[Picture], object_word: str) -> "RegADFitted":
        clip, levels = self._foundation.clip, self._foundation.profile.encoder.levels
        known = [images.resize(picture, clip.resolution) for picture in references]
        return RegADFitted(clip, levels, self._network, known)


class RegADFitted:
    """RegAD that knows one category."""

    def __init__(self, clip: ClipModel, levels: tuple[int, ...], network: Network, references: list[Picture]) -> None:
        self._clip, self._levels, self._network = clip, levels, network
        views = references + moved(references, support_poses())
        self._gaussians = PlaceGaussians(self._registered(views)[0])

    def score(self, pictures: list[Picture]) -> Scored:
        features, pose = self._registered(pictures)
        distance = self._gaussians.distance(features)
        back = warp(as_grid(distance.float())[:, None], inverse(pose))
        return scored(distance.amax(dim=-1), back[:, 0].flatten(1))

    @torch.no_grad()
    def _registered(self, pictures: list[Picture]) -> tuple[Tensor, Tensor]:
        features, pose = self._network.register(grids(self._clip, pictures, self._levels))
        return features.flatten(2).transpose(1, 2), pose


def look(foundation: Foundation, good: list[Picture], seed: int) -> Tensor:
    """Features of good pictures of one category and of moved views: float16 (1 + V, N, C, g, g)."""
    clip, levels = foundation.clip, foundation.profile.encoder.levels
    rng = np.random.default_rng([foundation.profile.seed, seed])
    shown = [images.resize(picture, clip.resolution) for picture in good[:PICTURES]]
    poses = [
        pose_of(rng.uniform(-MOST_ANGLE, MOST_ANGLE), *rng.uniform(-MOST_SHIFT, MOST_SHIFT, 2)) for _ in range(VIEWS)
    ]
    return grids(clip, shown + moved(shown, poses), levels).half().unflatten(0, (1 + VIEWS, len(shown)))


def train(looked: list[Tensor], steps: int, seed: int) -> tuple[Network, list[float]]:
    """A network that has learned to register the categories of `looked`, and its loss at every step."""
    rng = np.random.default_rng(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = Network(looked[0].shape[2], looked[0].shape[-1]).train()
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(1, steps))
    losses = []
    for _ in range(steps):
        drawn = []
        for features in (looked[index] for index in rng.integers(len(looked), size=BATCH)):
            pictures = rng.choice(features.shape[1], 1 + SHOTS, replace=False)
            drawn.append(features[rng.integers(len(features), size=1 + SHOTS), pictures])
        both = torch.stack(drawn).float()
        loss = network.loss(both[:, 0], both[:, 1:])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
    return network.eval(), losses


def grids(clip: ClipModel, pictures: list[Picture], levels: tuple[int, ...]) -> Tensor:
    """Patch features, `DIMENSIONS` of all levels' together, laid out as pictures: float32 (N, C, g, g)."""
    found = side_by_side(patches(clip, pictures, levels))
    return as_grid(found[..., chosen_dimensions(found.shape[-1], DIMENSIONS)].transpose(1, 2).contiguous())


def warp(grid: Tensor, pose: Tensor) -> Tensor:
    """(B, C, h, w) looked at where `pose` (B, 2, 3) says."""
    where = F.affine_grid(pose, list(grid.shape), align_corners=False)
    return F.grid_sample(grid, where, padding_mode="reflection", align_corners=False)


def inverse(pose: Tensor) -> Tensor:
    """The pose that undoes `pose` (B, 2, 3)."""
    turned = torch.linalg.inv(pose[:, :, :2])
    return torch.cat([turned, -turned @ pose[:, :, 2:]], dim=-1)


def moved(pictures: list[Picture], poses: list[Tensor]) -> list[Picture]:
    """Every picture in every pose (2, 3): as many pictures for each pose, uint8 (R, R, 3)."""
    x = to_unit(pictures, torch.device("cpu"))
    return [view for pose in poses for view in to_pictures(warp(x, pose.expand(len(x), -1, -1)))]


def pose_of(angle: float, x: float = 0.0, y: float = 0.0, mirrored: bool = False) -> Tensor:
    """Turned by `angle` (radians) and moved by x and y (of half a side): float32 (2, 3)."""
    cos, sin, sign = math.cos(angle), math.sin(angle), -1 if mirrored else 1
    return torch.tensor([[sign * cos, -sin, x], [sign * sin, cos, y]], dtype=torch.float32)


def support_poses() -> list[Tensor]:
    """The poses in which references are shown once more as the paper augments them: turned, moved, mirrored."""
    angles = [k * math.pi / 16 for k in (-4, -3, -2, -1, 1, 2, 3, 4)] + [k * math.pi / 2 for k in (1, 2, 3)]
    shifts = [(a * x, a * y) for a in (0.1, 0.2) for x in (-1, 1) for y in (-1, 1)]
    return [*map(pose_of, angles), *(pose_of(0, x, y) for x, y in shifts), pose_of(0, mirrored=True)]


def _told_apart(predicted: Tensor, target: Tensor) -> Tensor:
    """The cross-entropy of finding each place of (B, C, g, g) among all places of its counterpart."""
    p, z = (F.normalize(x.flatten(2), dim=1) for x in (predicted, target))
    likeness = torch.einsum("bcg,bch->bgh", p, z) / TEMPERATURE
    return F.cross_entropy(likeness.transpose(1, 2), torch.arange(p.shape[-1]).expand(len(p), -1))


def _pointwise(before: int, after: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(before, after, 1), nn.BatchNorm2d(after), nn.ReLU())
