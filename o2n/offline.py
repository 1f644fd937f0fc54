"""Ray Data: a dataset of pictures -> a dataset of scores. The one module of the library that knows Ray."""

import functools
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import ray

from o2n import images
from o2n.calibration import decide
from o2n.category import VersionRef
from o2n.errors import O2NError, PictureError
from o2n.profiles import Profile
from o2n.settings import get_settings
from o2n.store import CategoryStore
from o2n.triplet import BATCH, TripletScorer

SCHEMA = pa.schema(
    [
        ("path", pa.string()),
        ("category", pa.string()),
        ("version", pa.string()),
        ("score", pa.float64()),
        ("s_p", pa.float64()),
        ("s_n", pa.float64()),
        ("s_text", pa.float64()),
        ("p_value", pa.float64()),
        ("threshold", pa.float64()),
        ("is_anomalous", pa.bool_()),
        ("false_positive_rate", pa.float64()),
        ("error", pa.string()),
    ]
)


def pin_versions(store: CategoryStore, categories: list[str]) -> dict[str, VersionRef]:
    """The versions that serve now; a run is pinned to them, so that a publish in the middle changes nothing.

    Raises:
        NotFoundError: a category that the store does not hold.
    """
    return {name: store.current(name) for name in categories}


def score_dataset(
    pictures: "ray.data.Dataset",
    profile: Profile,
    store: CategoryStore,
    pinned: dict[str, VersionRef],
    *,
    rate: float | None = None,
    workers: int = 1,
    gpus_per_worker: float = 0,
) -> "ray.data.Dataset":
    """Score every picture of a dataset of rows with `path` and `category`, categories mixed as they come.

    A picture that cannot be read becomes a row with its `error`, and null scores.

    Args:
        pinned: for each category that occurs, the version it is scored with.
        rate: the false-positive rate to decide at; by default $O2N_FALSE_POSITIVE_RATE. Rows have the rate that was
            promised, which is higher where a category has too few normal pictures.
        workers: scoring actors, each with the models loaded once.

    Returns: a dataset of rows as in `SCHEMA`.
    """
    decoded = pictures.map(_read, fn_kwargs={"side": profile.diffusion.resolution})
    return decoded.map_batches(
        _Scorer,
        fn_constructor_args=(profile, store, pinned, get_settings().false_positive_rate if rate is None else rate),
        batch_size=4 * BATCH,
        batch_format="numpy",
        compute=ray.data.ActorPoolStrategy(size=workers),
        num_cpus=1,
        num_gpus=gpus_per_worker,
    )


def _read(row: dict[str, Any], side: int) -> dict[str, Any]:
    """Every picture at the model's size at once: rows of one block must have one shape."""
    try:
        picture, error = images.resize(images.read(Path(row["path"])), side), ""
    except PictureError as refused:
        picture, error = np.zeros((side, side, 3), np.uint8), str(refused)
    return {"path": row["path"], "category": row["category"], "picture": picture, "error": error}


class _Scorer:
    """One worker of the actor pool."""

    def __init__(self, profile: Profile, store: CategoryStore, pinned: dict[str, VersionRef], rate: float) -> None:
        self._scorer = TripletScorer(profile, store)
        self._pinned, self._rate = pinned, rate
        self._calibration = functools.cache(store.calibration)

    def __call__(self, batch: dict[str, Any]) -> pa.Table:
        rows = [
            {
                "path": str(path),
                "category": str(category),
                "version": self._pinned[category].version,
                "error": error,
            }
            for path, category, error in zip(batch["path"], batch["category"], batch["error"], strict=True)
        ]
        readable = [index for index, row in enumerate(rows) if not row["error"]]
        for index, found in zip(readable, self._score(batch["picture"], rows, readable), strict=True):
            rows[index] |= found
        return pa.Table.from_pylist([{**row, "error": row["error"] or None} for row in rows], schema=SCHEMA)

    def _score(self, pictures: Any, rows: list[dict[str, Any]], wanted: list[int]) -> list[dict[str, Any]]:
        refs = [self._pinned[rows[index]["category"]] for index in wanted]
        try:
            # Ray hands out read-only views of shared memory, and torch wants arrays of its own.
            scores = self._scorer.score([np.array(pictures[index]) for index in wanted], refs)
            decisions = [decide(s.score, self._calibration(s.ref), self._rate).values() for s in scores]
        except O2NError as error:
            if len(wanted) == 1:
                return [{"error": str(error)}]
            # One category's broken version must not take the others' rows with it.
            return [found for index in wanted for found in self._score(pictures, rows, [index])]
        return [
            {"score": s.score, "s_p": s.s_p, "s_n": s.s_n, "s_text": s.s_text, **decision}
            for s, decision in zip(scores, decisions, strict=True)
        ]
