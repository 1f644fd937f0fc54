"""Is the promised false-positive rate kept? A thousand random calibrations on the real scores of normal pictures."""

from dataclasses import dataclass
from statistics import mean

import numpy as np
from numpy.typing import NDArray

from o2n.calibration import Calibration, decide
from o2n.data.datasets.procedural import STYLE
from o2n.data.procedural import Category, draw
from o2n.onboard import onboard
from o2n.profiles import Profile
from o2n.store import CategoryStore
from o2n.triplet import TripletScorer


@dataclass(frozen=True)
class NormalScores:
    """Fused scores of one category's normal pictures: of its references, left out in turn, and of others."""

    family: str
    draw: int
    references: list[float]
    others: list[float]


@dataclass(frozen=True)
class Realised:
    """What a requested false-positive rate came to.

    promised: the mean of what was promised, the requested rate or the least that could be. realised: the mean share of
    normal pictures, none of them calibrated on, that were called anomalous. deviation: of that share between
    calibrations.
    """

    promised: float
    realised: float
    deviation: float


def normal_scores(family: str, number: int, profile: Profile, store: CategoryStore, others: int = 150) -> NormalScores:
    """Onboard four pictures of a procedural category, drawn by `number`, and score `others` more."""
    category = Category(family, STYLE)
    references = list(draw(category, 4, 0, number).pictures)
    pictures = list(draw(category, others, 0, 1 << 21).pictures)
    ref = onboard(f"{family}-{number}", references, profile, store, category.word).ref
    scores = TripletScorer(profile, store).score(pictures, [ref] * others)
    own = [picture.score for picture in store.calibration(ref).pictures]
    return NormalScores(family, number, own, [score.score for score in scores])


def realised(
    scored: list[NormalScores],
    rate: float,
    extras: int,
    *,
    with_references: bool,
    calibrations: int = 1000,
) -> Realised:
    """Calibrate on `extras` of the others chosen at random, with or without the references, and decide on the rest."""
    rng = np.random.default_rng(0)
    promised, shares = [], []
    for index in range(calibrations):
        scores = scored[index % len(scored)]
        others: NDArray[np.float64] = rng.permutation(scores.others)
        chosen = [*others[:extras].tolist(), *(scores.references if with_references else [])]
        decision = decide(0.0, Calibration(scores=tuple(sorted(chosen))), rate)
        promised.append(decision.false_positive_rate)
        shares.append(float((others[extras:] > decision.threshold).mean()))
    return Realised(mean(promised), mean(shares), float(np.std(shares)))
