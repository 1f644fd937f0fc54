"""Tasks: categories with references and labelled queries, from procedural pictures and from real data.

Every function is deterministic in `draw`, which chooses the references; the queries stay the same where they can.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from o2n import images
from o2n.data.datasets.mnist import T10K_LAYOUT, WORDS, read_part
from o2n.data.datasets.procedural import STYLE as STYLE
from o2n.data.defects import EVALUATION_DEFECTS, VALIDATION_DEFECTS
from o2n.data.procedural import EVALUATION, VALIDATION, Category, draw, spoil_photographs
from o2n.images import Picture

# Larger than any embedded model sees at once, as photographs are.
SIDE = 128
SHOTS = 4


@dataclass(frozen=True)
class Task:
    """One category to be judged.

    references, queries: uint8 (H, W, 3). labels: bool (N,), True is anomalous. masks: bool (N, H, W) where known;
    twins: every query without its defect, where known.
    """

    group: str
    name: str
    object_word: str
    references: list[Picture]
    queries: list[Picture]
    labels: NDArray[np.bool_]
    masks: NDArray[np.bool_] | None = None
    twins: list[Picture] | None = None

    @property
    def digest(self) -> str:
        """SHA-256 of the references and queries, in hex: figures of equal names may be of other pictures."""
        seen = [images.digest(picture) for picture in (*self.references, *self.queries)]
        return hashlib.sha256("".join(seen).encode()).hexdigest()


def families(part: str, number: int, each: int = 30) -> list[Task]:
    """Procedural categories of families and with kinds of defects that training never saw: `part` is "evaluation" or
    "validation", which share none."""
    names, defects = (EVALUATION, EVALUATION_DEFECTS) if part == "evaluation" else (VALIDATION, VALIDATION_DEFECTS)
    tasks = []
    for name in names:
        category = Category(name, STYLE)
        references = draw(category, SHOTS, 0, number)
        shown = draw(category, each, each, 1 << 20, defects=defects)
        task = Task(
            f"{part} families",
            name,
            category.word,
            list(references.pictures),
            list(shown.pictures),
            shown.labels,
            shown.masks,
            list(shown.twins),
        )
        tasks.append(task)
    return tasks


def textures(number: int, each: int = 25) -> list[Task]:
    """scikit-image's photographs of brick, grass and gravel: 128 px crops, spoilt by the unseen generator.

    References come from the upper quarter of a photograph, queries from the rest.
    """
    from skimage import data

    tasks = []
    for name in ("brick", "grass", "gravel"):
        photograph = np.repeat(getattr(data, name)()[..., None], 3, axis=-1)
        references = _crops(photograph[:128], SHOTS, np.random.default_rng([number, 1]))
        queries = np.stack(_crops(photograph[128:], 2 * each, np.random.default_rng(2)))
        spoilt, masks = spoil_photographs(queries[each:], seed=3)
        masks = np.concatenate([np.zeros_like(masks), masks])
        labels = np.arange(2 * each) >= each
        shown = [*queries[:each], *spoilt]
        tasks.append(Task("scikit-image textures", name, name, references, shown, labels, masks, list(queries)))
    return tasks


def digits(number: int, each: int = 20) -> list[Task]:
    """scikit-learn's handwritten digits (8 by 8), each against the nine others."""
    from sklearn.datasets import load_digits

    found = load_digits()
    pictures = (found.images * (255 / 16)).astype(np.uint8)
    return _one_against_rest("scikit-learn digits", pictures, found.target, number, each)


def mnist(root: Path, number: int, each: int = 20) -> list[Task]:
    """MNIST's test set in its published files, each digit against the nine others."""
    pictures, labels = read_part(root, "t10k", T10K_LAYOUT)
    return _one_against_rest("MNIST", pictures, labels, number, each)


def magnetic_tile(root: Path, number: int, each: int = 100) -> list[Task]:
    """The magnetic tile photographs: good ones against all kinds of defects, `each` of both at most."""
    good = images.find(root / "good")
    kinds = sorted(p.name for p in root.iterdir() if p.is_dir() and p.name not in ("good", "ground_truth"))
    bad = [path for kind in kinds for path in images.find(root / kind)]
    rng = np.random.default_rng(7)
    good, bad = [good[i] for i in rng.permutation(len(good))], [bad[i] for i in rng.permutation(len(bad))[:each]]
    chosen = np.random.default_rng(number).choice(len(good) - each, SHOTS, replace=False) + each
    queries = [images.read(path) for path in good[:each] + bad]
    labels = np.arange(len(queries)) >= each
    references = [images.read(good[i]) for i in chosen]
    return [Task("magnetic tile", "magnetic_tile", "magnetic tile", references, queries, labels)]


def _crops(photograph: NDArray[np.uint8], count: int, rng: np.random.Generator) -> list[Picture]:
    height, width = photograph.shape[:2]
    places = [(rng.integers(height - SIDE + 1), rng.integers(width - SIDE + 1)) for _ in range(count)]
    return [photograph[i : i + SIDE, j : j + SIDE] for i, j in places]


def _one_against_rest(
    group: str, pictures: NDArray[np.uint8], labels: NDArray[np.integer], number: int, each: int
) -> list[Task]:
    shuffled = np.random.default_rng(5).permutation(len(labels))
    tasks = []
    for digit, word in enumerate(WORDS):
        own = [i for i in shuffled if labels[i] == digit]
        others = [i for i in shuffled if labels[i] != digit][:each]
        chosen = np.random.default_rng([number, digit]).choice(own[each:], SHOTS, replace=False)
        references, queries = (
            [images.resize(np.repeat(pictures[i][..., None], 3, axis=-1), 64) for i in rows]
            for rows in (chosen, [*own[:each], *others])
        )
        tasks.append(Task(group, word, word, references, queries, np.arange(len(queries)) >= each))
    return tasks
