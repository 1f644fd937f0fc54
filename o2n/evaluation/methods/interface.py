"""What every competing method is: fit references, score pictures."""

from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from o2n.images import Picture


@dataclass(frozen=True)
class Scores:
    """What a method says of N pictures; higher is more anomalous.

    scores: float64 (N,). maps: float32 (N, h, w) on any grid, upsampled by the caller; None of a method without maps.
    parts: named parts of the scores, each float64 (N,): of O2N its branches.
    """

    scores: NDArray[np.float64]
    maps: NDArray[np.float32] | None
    parts: dict[str, NDArray[np.float64]] = field(default_factory=dict)


class Fitted(Protocol):
    """A method that knows one category."""

    def score(self, pictures: list[Picture]) -> Scores:
        """Score uint8 (H, W, 3) pictures of any sizes; the company a picture is scored in changes nothing."""
        ...


class Method(Protocol):
    """A method with its settings. `name`: how tables call it. One with weights that are not the profile's tells in
    `weights`, if it has that, which they are."""

    @property
    def name(self) -> str: ...

    def fit(self, references: list[Picture], object_word: str) -> Fitted:
        """Learn a category from uint8 (H, W, 3) pictures of good parts, of any sizes."""
        ...
