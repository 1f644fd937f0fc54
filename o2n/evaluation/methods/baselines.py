"""What any method must beat (`o2n/evaluation/baselines.py`), as methods."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from o2n.evaluation.baselines import nearest_picture, random_encoder, raw_patches
from o2n.evaluation.methods.interface import Scores
from o2n.images import Picture

# Outcomes are kept for as long as this stays the same: raise it when what is computed changes.
REVISION = 1

Compare = Callable[[list[Picture], list[Picture]], tuple[NDArray[np.floating], NDArray[np.float32] | None]]


@dataclass(frozen=True)
class Baseline:
    """compare: references, queries -> scores (N,) and maps, if there are any."""

    name: str
    compare: Compare

    def fit(self, references: list[Picture], object_word: str) -> "BaselineFitted":
        return BaselineFitted(self.compare, references)


@dataclass(frozen=True)
class BaselineFitted:
    """A baseline with the references of one category."""

    compare: Compare
    references: list[Picture]

    def score(self, pictures: list[Picture]) -> Scores:
        scores, maps = self.compare(self.references, pictures)
        return Scores(scores.astype(np.float64), maps)


RAW_PATCHES = Baseline("raw patches", raw_patches)
NEAREST_PICTURE = Baseline("nearest picture", lambda known, queries: (nearest_picture(known, queries), None))
RANDOM_WEIGHTS = Baseline("random weights", lambda known, queries: (random_encoder(known, queries), None))
