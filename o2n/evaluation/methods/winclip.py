"""WinCLIP and WinCLIP+ (Jeong et al., CVPR 2023): prompts and references compared with windows of a picture."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from o2n import images
from o2n.evaluation.methods.encoding import BATCH, scored
from o2n.evaluation.methods.interface import Scores
from o2n.foundation import load_foundation
from o2n.images import Picture
from o2n.models import ClipModel, to_unit
from o2n.profiles import Profile
from o2n.text import text_features

# Outcomes are kept for as long as this stays the same: raise it when what is computed changes.
REVISION = 1

TEMPERATURE = 0.07
WINDOWS = (2, 3)  # sides in patches: the paper's small and mid scale


@dataclass(frozen=True)
class Seen:
    """What CLIP's last block makes of N pictures, all vectors of length 1.

    whole: (N, E). patches: (N, G, D). windows: of each of `WINDOWS`, (N, W, E).
    """

    whole: Tensor
    patches: Tensor
    windows: list[Tensor]


class WinCLIP:
    """With references WinCLIP+; without any, fitted to an empty list, zero-shot WinCLIP."""

    name = "WinCLIP"

    def __init__(self, profile: Profile) -> None:
        self._profile = profile

    def fit(self, references: list[Picture], object_word: str) -> "WinCLIPFitted":
        clip = load_foundation(self._profile).clip
        return WinCLIPFitted(clip, text_features(clip, object_word), look(clip, references) if references else None)


@dataclass(frozen=True)
class WinCLIPFitted:
    """text: float32 (2, E), of normal and of abnormal prompts. known: the references."""

    clip: ClipModel
    text: Tensor
    known: Seen | None

    def score(self, pictures: list[Picture]) -> Scores:
        seen = look(self.clip, pictures)
        scores = self._abnormal(seen.whole)
        patches = seen.patches.shape[1]
        covers = [cover(self.clip.model.visual.grid_size, side) for side in WINDOWS]
        read = [self._abnormal(windows) for windows in seen.windows]
        scales = [scores[:, None].expand(-1, patches), *map(harmonic, read, covers)]
        maps = len(scales) / (1 / torch.stack(scales)).sum(dim=0)
        if self.known is not None:
            unlike = [unlikeness(seen.patches, self.known.patches)]
            for own, known, covered in zip(seen.windows, self.known.windows, covers, strict=True):
                unlike.append(harmonic(unlikeness(own, known), covered))
            few = torch.stack(unlike).mean(dim=0)
            scores, maps = (scores + few.amax(dim=-1)) / 2, (maps + few) / 2
        return scored(scores, maps)

    def _abnormal(self, embeddings: Tensor) -> Tensor:
        """How abnormal embeddings (…, E) read, in [0, 1]."""
        return (embeddings @ self.text.T / TEMPERATURE).softmax(dim=-1)[..., 1]


@torch.inference_mode()
def look(clip: ClipModel, pictures: list[Picture]) -> Seen:
    """Whole pictures, patches and windows, on the CPU. A window is the picture's tokens without those outside of it."""
    visual, device = clip.model.visual, clip.mean.device
    found: list[tuple[Tensor, ...]] = []
    for start in range(0, len(pictures), BATCH):
        part = [images.resize(picture, clip.resolution) for picture in pictures[start : start + BATCH]]
        tokens = visual._embeds(clip.pixels(to_unit(part, device)))
        whole, last = _through(visual, tokens)
        windows = []
        for side in WINDOWS:
            inside = tokens[:, kept_tokens(visual.grid_size, side)]
            windows.append(_through(visual, inside.flatten(0, 1))[0].unflatten(0, inside.shape[:2]))
        found.append(tuple(F.normalize(x.float(), dim=-1).cpu() for x in (whole, last, *windows)))
    whole, last, *windows = (torch.cat(parts) for parts in zip(*found, strict=True))
    return Seen(whole, last, windows)


def cover(grid: tuple[int, int], side: int) -> Tensor:
    """Which window covers which patch: float32 (W, G), windows of side × side at every place, row by row."""
    height, width = grid
    windows = []
    for top in range(height - side + 1):
        for left in range(width - side + 1):
            window = torch.zeros(height, width)
            window[top : top + side, left : left + side] = 1
            windows.append(window.flatten())
    return torch.stack(windows)


def harmonic(values: Tensor, covered: Tensor) -> Tensor:
    """The harmonic mean of the windows that cover each patch: (N, W), (W, G) -> (N, G)."""
    return covered.sum(dim=0) / ((1 / values.clamp_min(1e-6)) @ covered)


def unlikeness(own: Tensor, known: Tensor) -> Tensor:
    """Half the cosine distance to the nearest of all references: (N, W, E), (K, W', E) -> (N, W)."""
    bank = known.flatten(0, 1).T
    return torch.stack([(1 - (one @ bank).amax(dim=-1)) / 2 for one in own])


def kept_tokens(grid: tuple[int, int], side: int) -> Tensor:
    """Of each window the class token and its own: int64 (W, 1 + side · side)."""
    return torch.stack([F.pad(window.nonzero()[:, 0] + 1, (1, 0)) for window in cover(grid, side)])


def _through(visual: torch.nn.Module, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """Tokens (B, T, D) through the transformer: the embedding (B, E) and the patches (B, T - 1, D)."""
    pooled, last = visual._pool(visual.transformer(tokens))  # type: ignore[operator]
    return (pooled @ visual.proj if visual.proj is not None else pooled), last
