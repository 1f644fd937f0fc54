"""Auxiliary pictures, of categories that nobody is judged on, and what was trained on them, kept on disk."""

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import safetensors
import safetensors.torch
from torch import Tensor

from o2n.data.procedural import TRAINING, Category, draw
from o2n.files import replacing
from o2n.images import Picture
from o2n.settings import get_settings

GOOD, BAD = 16, 8


@dataclass(frozen=True)
class Labelled:
    """Pictures of one category, uint8 (H, W, 3): good ones, to be references as well, and bad ones."""

    object_word: str
    good: list[Picture]
    bad: list[Picture]


@dataclass(frozen=True)
class Auxiliary:
    """name: says all that decides the pictures, for tables and for the digest of what is trained on them."""

    name: str
    categories: Callable[[], Iterator[Labelled]]


def _procedural() -> Iterator[Labelled]:
    for family in TRAINING:
        category = Category(family, 1)
        drawn = draw(category, GOOD, BAD, 0)
        pictures = list(drawn.pictures)
        yield Labelled(category.word, pictures[:GOOD], pictures[GOOD:])


PROCEDURAL = Auxiliary(
    f"{len(TRAINING)} procedural training families, {GOOD} good and {BAD} bad pictures of each", _procedural
)


def kept(method: str, settings: str, train: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
    """What `train` comes to, or came to when it was last called for the same `settings`.

    Args: settings: all that decides the outcome, in words: also which models and pictures. It is written beside the
        tensors.
    """
    digest = hashlib.sha256(settings.encode()).hexdigest()[:16]
    file = get_settings().cache / f"{method}-{digest}.safetensors"
    found = _read(file, settings)
    if found is None:
        found = train()
        with replacing(file) as part:
            safetensors.torch.save_file(found, part, {"trained": settings})
    return found


def digest_of(tensors: dict[str, Tensor]) -> str:
    """The first half of the SHA-256 of what was trained."""
    return hashlib.sha256(safetensors.torch.save(tensors)).hexdigest()[:32]


def _read(file: Path, settings: str) -> dict[str, Tensor] | None:
    try:
        with safetensors.safe_open(file, "pt") as opened:
            if opened.metadata() != {"trained": settings}:
                return None
            return {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    except (OSError, safetensors.SafetensorError):  # none there yet, or damaged: trained anew
        return None
