"""InCTRL (Zhu & Pang, CVPR 2024): residuals between a query and its references, judged by heads that were trained on
auxiliary categories and are told nothing of the new one."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from o2n.evaluation.methods.auxiliary import PROCEDURAL, Auxiliary, digest_of, kept
from o2n.evaluation.methods.encoding import as_grid, patches, scored, wholes
from o2n.evaluation.methods.interface import Scores
from o2n.foundation import Foundation, load_foundation
from o2n.images import Picture
from o2n.models import ClipModel
from o2n.profiles import Profile
from o2n.text import LOGIT_SCALE, text_features
from o2n.text_training import focal_loss

# Outcomes are kept for as long as this stays the same: raise it when what is computed changes.
REVISION = 1

ALPHA = 0.5  # weight of the largest patch residual
SHOTS = (2, 4, 8)  # references of a query in training
REFERENCES = 8  # of each auxiliary category's good pictures; the others are queries
BATCH = 48


class Heads(nn.Module):
    """All that is trained: the adapter psi, the image-level head eta, the holistic head phi.

    Args: width: of CLIP's embeddings. places: of the patch grid.
    """

    def __init__(self, width: int, places: int) -> None:
        super().__init__()
        self.adapter = nn.Sequential(
            nn.Linear(width, width // 4, bias=False), nn.ReLU(), nn.Linear(width // 4, width, bias=False), nn.ReLU()
        )
        self.image = _head(width)
        self.holistic = _head(places)

    def forward(self, whole: Tensor, known: Tensor, residual: Tensor, text: Tensor) -> tuple[Tensor, Tensor]:
        """A query's image-level score and its whole score, both in [0, 1].

        Args: whole (B, E), the queries; known (B, K, E), each one's references; residual (B, G), the patches' residual
            map M_x; text (B,), the text prior s_a.
        """
        prototype = self.adapter(known).mean(dim=1)
        image = self.image(prototype - self.adapter(whole)).sigmoid()
        holistic = self.holistic(residual + image[:, None] + text[:, None]).sigmoid()
        return image, (holistic + ALPHA * residual.amax(dim=-1)) / (1 + ALPHA)


@dataclass(frozen=True)
class Queries:
    """Q pictures of one category as the heads see them.

    whole: (Q, E). known: (R, E), the references. distance: (Q, R, L, G), of every patch to the nearest of each
    reference, in [0, 1]. text: (Q,). bad: (Q,), 1 or 0.
    """

    whole: Tensor
    known: Tensor
    distance: Tensor
    text: Tensor
    bad: Tensor


class InCTRL:
    """Args: auxiliary: what the heads are trained on. epochs: over it, as many queries good as bad."""

    name = "InCTRL"

    def __init__(self, profile: Profile, auxiliary: Auxiliary = PROCEDURAL, epochs: int = 60) -> None:
        self._foundation, self.trained_on = load_foundation(profile), auxiliary.name
        # Whatever changes the outcome of the training must change these words.
        settings = f"1; {self._foundation.identity}; {profile.encoder}; {auxiliary.name}; {epochs}; {profile.seed}"

        def trained() -> dict[str, Tensor]:
            tasks = [look(self._foundation, one.object_word, one.good, one.bad) for one in auxiliary.categories()]
            return train(tasks, epochs, profile.seed).state_dict()

        visual = self._foundation.clip.model.visual
        self.heads = Heads(visual.output_dim, math.prod(visual.grid_size)).eval()
        weights = kept("inctrl", settings, trained)
        self.heads.load_state_dict(weights)
        self.weights = digest_of(weights)

    def fit(self, references: list[Picture], object_word: str) -> "InCTRLFitted":
        clip, levels = self._foundation.clip, self._foundation.profile.encoder.levels
        text = text_features(clip, object_word)
        known, bank = wholes(clip, references), patches(clip, references, levels)
        return InCTRLFitted(clip, levels, self.heads, known, bank, text)


@dataclass(frozen=True)
class InCTRLFitted:
    """InCTRL with the references of one category."""

    clip: ClipModel
    levels: tuple[int, ...]
    heads: Heads
    known: Tensor
    bank: Tensor
    text: Tensor

    @torch.no_grad()
    def score(self, pictures: list[Picture]) -> Scores:
        whole = wholes(self.clip, pictures)
        residual = nearest(patches(self.clip, pictures, self.levels), self.bank).amin(dim=1).mean(dim=1)
        known = self.known.expand(len(whole), -1, -1)
        _, scores = self.heads(whole, known, residual, read_abnormal(whole, self.text))
        return scored(scores, residual)


def train(tasks: list[Queries], epochs: int, seed: int) -> Heads:
    """Heads trained with focal losses on the image-level and on the whole score."""
    rng = np.random.default_rng(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        heads = Heads(tasks[0].whole.shape[-1], tasks[0].distance.shape[-1]).train()
    optimizer = torch.optim.AdamW(heads.parameters(), lr=1e-3)
    rows = [(task, row) for task in tasks for row in range(len(task.bad))]
    for _ in range(epochs):
        order = rng.permutation(len(rows))
        for batch in np.array_split(order, max(1, len(order) // BATCH)):
            scores, bad = _forward(heads, [rows[index] for index in batch], rng)
            loss = focal_loss(scores[0], bad) + focal_loss(scores[1], bad)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return heads.eval()


def _forward(
    heads: Heads, batch: list[tuple[Queries, int]], rng: np.random.Generator
) -> tuple[tuple[Tensor, Tensor], Tensor]:
    """Both scores of some queries, each beside references of its own drawn anew, and which of them are bad."""
    shots = int(rng.choice(SHOTS))
    chosen = [rng.choice(len(task.known), shots, replace=False) for task, _ in batch]
    both = list(zip(batch, chosen, strict=True))
    scores = heads(
        torch.stack([task.whole[row] for task, row in batch]),
        torch.stack([task.known[own] for (task, _), own in both]),
        torch.stack([turned(task.distance[row, own].amin(dim=0).mean(dim=0), rng) for (task, row), own in both]),
        torch.stack([task.text[row] for task, row in batch]),
    )
    return scores, torch.stack([task.bad[row] for task, row in batch])


def turned(residual: Tensor, rng: np.random.Generator) -> Tensor:
    """A residual map (G,) as it is when query and references are turned and mirrored alike: the holistic head knows
    places, and there are few auxiliary pictures to learn from that a defect may be anywhere."""
    grid = torch.rot90(as_grid(residual), int(rng.integers(4)), (0, 1))
    return (grid.flip(0) if rng.integers(2) else grid).flatten()


def look(foundation: Foundation, object_word: str, good: list[Picture], bad: list[Picture]) -> Queries:
    """The first `REFERENCES` good pictures as references, all others as queries."""
    clip, levels = foundation.clip, foundation.profile.encoder.levels
    pictures = good + bad
    whole, features = wholes(clip, pictures).clone(), patches(clip, pictures, levels).clone()
    known, whole = whole[:REFERENCES], whole[REFERENCES:]
    distance = nearest(features[REFERENCES:], features[:REFERENCES])
    text = read_abnormal(whole, text_features(clip, object_word).clone())
    return Queries(whole, known, distance, text, (torch.arange(len(whole)) >= len(whole) - len(bad)).float())


def nearest(features: Tensor, bank: Tensor) -> Tensor:
    """Half the cosine distance of every patch to the nearest of each reference, level by level.

    Args: features (Q, L, G, D), bank (R, L, G, D). Returns: (Q, R, L, G), in [0, 1].
    """
    found = []
    for query in features:
        similarity = torch.stack([(query @ one.transpose(-1, -2)).amax(dim=-1) for one in bank])
        found.append((1 - similarity).clamp_min(0) / 2)
    return torch.stack(found)


def read_abnormal(whole: Tensor, text: Tensor) -> Tensor:
    """s_a: how abnormal whole pictures (Q, E) read beside `text` (2, E), in [0, 1]."""
    return (LOGIT_SCALE * whole @ text.T).softmax(dim=-1)[:, 1]


def _head(width: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(width, 128),
        nn.ReLU(),
        nn.BatchNorm1d(128),
        nn.Linear(128, 64),
        nn.ReLU(),
        nn.BatchNorm1d(64),
        nn.Linear(64, 1),
        nn.Flatten(0),
    )
