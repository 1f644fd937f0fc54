"""What every data set is made of: pictures that are read when needed, sorted into categories, and errors that say what
is missing from a folder. Knows no method and no metric."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from o2n import images
from o2n.errors import DataSetError
from o2n.images import Picture

Mask = NDArray[np.bool_]  # (H, W), True where the defect is
Domain = Literal["industrial", "medical", "semantic", "procedural"]

GOOD = "good"


@dataclass(frozen=True)
class Sample:
    """One picture of a data set.

    key: which one it is, the same on every machine: the file below the data set's folder, with what was cut from it.
    kind: `GOOD`, or the kind of its defect. read: its pixels, uint8 (H, W, 3). mask: where the defect is, bool (H, W);
    None where nobody has drawn it; of a good picture too None, for its mask is empty. files: what all this is read
    from; none, where it is drawn.
    """

    key: str
    kind: str
    read: Callable[[], Picture]
    mask: Callable[[], Mask] | None = None
    files: tuple[Path, ...] = ()

    @property
    def anomalous(self) -> bool:
        return self.kind != GOOD


@dataclass(frozen=True)
class LabelledCategory:
    """One category: the good pictures that shots are drawn from, the queries, and what prompts call the part."""

    name: str
    object_word: str
    normals: tuple[Sample, ...]
    queries: tuple[Sample, ...]

    @property
    def masked(self) -> bool:
        """Whether every defect has a mask."""
        return all(query.mask is not None for query in self.queries if query.anomalous)


@dataclass(frozen=True)
class DataSet:
    """A data set: `name` is also its folder's name; `title` what the paper calls it.

    load: folder -> its categories. Raises `DataSetError` where something is missing, with the layout that is expected.
    """

    name: str
    title: str
    domain: Domain
    load: Callable[[Path], list[LabelledCategory]]


def existing(path: Path, layout: str) -> Path:
    """`path`, if it is there.

    Raises:
        DataSetError: it is not; the message has the path and the layout.
    """
    if not path.exists():
        raise DataSetError(f"{path}: no such file or folder; expected {layout}")
    return path


def pictures_in(folder: Path, layout: str) -> list[Path]:
    """The picture files of `folder`, sorted by name.

    Raises:
        DataSetError: no such folder, or no pictures in it.
    """
    found = images.find(existing(folder, layout))
    if not found:
        raise DataSetError(f"{folder}: has no pictures; expected {layout}")
    return found


def read_mask(path: Path) -> Mask:
    """Whatever is not black in a picture, bool (H, W)."""
    return np.asarray(images.read(path).any(axis=-1))


def cut(path: Path, box: tuple[int, int, int, int]) -> Picture:
    """The part (top, bottom, left, right) of a picture."""
    top, bottom, left, right = box
    return images.read(path)[top:bottom, left:right]


def cut_mask(paths: tuple[Path, ...], box: tuple[int, int, int, int]) -> Mask:
    """The same part of a mask, or of several laid over each other."""
    top, bottom, left, right = box
    return np.asarray(np.any([read_mask(path) for path in paths], axis=0)[top:bottom, left:right])


def file_sample(root: Path, path: Path, kind: str = GOOD, mask: Path | None = None) -> Sample:
    """A picture that is a whole file below `root`."""
    return Sample(
        path.relative_to(root).as_posix(),
        kind,
        partial(images.read, path),
        partial(read_mask, mask) if mask else None,
        (path, mask) if mask else (path,),
    )


def quarter_for_testing(normals: Sequence[Sample]) -> tuple[tuple[Sample, ...], tuple[Sample, ...]]:
    """Good pictures of a data set that has no split -> those to draw shots from, and a quarter as queries.

    The split of the InCTRL benchmark (Zhu & Pang, CVPR 2024): scikit-learn's with seed 42. It hangs on the order, which
    there is that of a label file, or else whatever the file system gave; here it is sorted by name.
    """
    from sklearn.model_selection import train_test_split

    kept, tested = train_test_split(list(normals), test_size=0.25, random_state=42)
    return tuple(kept), tuple(tested)


def unsplit_category(
    name: str, object_word: str, good: Sequence[Sample], bad: Sequence[Sample], where: Path, layout: str
) -> LabelledCategory:
    """A category of a data set that has no split: `quarter_for_testing`, and everything bad is asked.

    Raises:
        DataSetError: pictures of one sort are missing; the message has `where` and `layout`.
    """
    if len(good) < 2 or not bad:
        raise DataSetError(f"{where}: {len(good)} good and {len(bad)} bad pictures are too few; expected {layout}")
    normals, tested = quarter_for_testing(good)
    return LabelledCategory(name, object_word, normals, (*tested, *bad))


def one_against_rest(
    classes: Sequence[str],
    words: Sequence[str],
    normals: Sequence[Sequence[Sample]],
    queries: Sequence[Sequence[Sample]],
) -> list[LabelledCategory]:
    """Each class in turn is the good one, and the queries of all others are anomalous.

    Args: normals, queries: for each class its pictures, whose kinds do not matter.
    """

    def renamed(samples: Sequence[Sample], kind: str) -> tuple[Sample, ...]:
        return tuple(replace(sample, kind=kind) for sample in samples)

    return [
        LabelledCategory(
            name,
            words[own],
            renamed(normals[own], GOOD),
            tuple(
                sample
                for index, others in enumerate(queries)
                for sample in renamed(others, GOOD if index == own else classes[index])
            ),
        )
        for own, name in enumerate(classes)
    ]
