"""Tasks: what they are made of, and that references are never asked."""

import gzip
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from o2n import images
from o2n.evaluation import tasks
from o2n.evaluation.tasks import Task


def check(task: Task) -> None:
    assert len(task.references) == 4
    assert 0 < task.labels.sum() < len(task.labels) == len(task.queries)
    known = {images.digest(reference) for reference in task.references}
    assert not known & {images.digest(query) for query in task.queries}


@pytest.mark.parametrize("part", ["evaluation", "validation"])
def test_families(part: str) -> None:
    made = tasks.families(part, 0, each=3)
    for task in made:
        check(task)
        assert task.masks is not None
        assert task.twins is not None
        assert task.masks.any(axis=(1, 2)).tolist() == task.labels.tolist()
    again, other = tasks.families(part, 0, each=3), tasks.families(part, 1, each=3)
    assert all((a.references[0] == b.references[0]).all() for a, b in zip(made, again, strict=True))
    assert all((a.references[0] != b.references[0]).any() for a, b in zip(made, other, strict=True))
    assert all((a.queries[0] == b.queries[0]).all() for a, b in zip(made, other, strict=True))


def test_textures() -> None:
    made = tasks.textures(0, each=4)
    assert [task.name for task in made] == ["brick", "grass", "gravel"]
    for task in made:
        check(task)
        assert task.masks is not None
        assert task.masks[4:].any(axis=(1, 2)).all()


def test_digits() -> None:
    made = tasks.digits(0, each=10)
    assert len(made) == 10
    for task in made:
        check(task)


def test_mnist_in_its_published_files(tmp_path: Path) -> None:
    pictures = np.random.default_rng(0).integers(0, 255, (200, 28, 28), dtype=np.uint8)
    header = np.array([2051, 200, 28, 28], ">i4").tobytes()
    (tmp_path / "t10k-images-idx3-ubyte.gz").write_bytes(gzip.compress(header + pictures.tobytes()))
    labels = np.arange(200, dtype=np.uint8) % 10
    (tmp_path / "t10k-labels-idx1-ubyte.gz").write_bytes(
        gzip.compress(np.array([2049, 200], ">i4").tobytes() + labels.tobytes())
    )
    made = tasks.mnist(tmp_path, 0, each=8)
    assert len(made) == 10
    for task in made:
        check(task)


def test_magnetic_tile(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for kind, count in (("good", 12), ("crack", 4), ("fray", 3), ("ground_truth", 0)):
        (tmp_path / kind).mkdir()
        for number in range(count):
            grey = rng.integers(0, 255, (40, 30), dtype=np.uint8)
            Image.fromarray(grey).save(tmp_path / kind / f"{number}.png")
    (task,) = tasks.magnetic_tile(tmp_path, 0, each=5)
    check(task)
    assert task.labels.tolist() == [False] * 5 + [True] * 5
