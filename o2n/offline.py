"""Ray Data: a dataset of pictures -> a dataset of scores."""

import functools
import io
import logging
import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pyarrow as pa
import ray
from PIL import Image

from o2n import images, inputs
from o2n.calibration import decide
from o2n.category import VersionRef
from o2n.errors import IntegrityError, NotFoundError, O2NError, StoreError
from o2n.fusion import Score
from o2n.images import Picture
from o2n.objects import Objects, open_objects
from o2n.offline_run import SCHEMA, Run, is_gone
from o2n.profiles import Profile
from o2n.settings import get_settings
from o2n.store import CategoryStore
from o2n.triplet import BATCH, TripletScorer

# Shares of a core: wherever a worker fits, so does a process that decodes for it. With whole cores, workers that start
# again after a node was lost could take the last ones, and wait for pictures for ever.
_SCORING, _DECODING = 0.9, 0.1


def score_dataset(
    pictures: "ray.data.Dataset",
    profile: Profile,
    store: CategoryStore,
    pinned: dict[str, VersionRef],
    *,
    rate: float | None = None,
    workers: int = 1,
    gpus_per_worker: float = 0,
    maps: str | None = None,
    counterparts: str | None = None,
) -> "ray.data.Dataset":
    """Score every picture of a dataset, categories mixed as they come: one part of anybody's Ray Data pipeline.

    Rows have a `category`, and a picture's `bytes` or, where these are missing or null, its `path`: a file or an s3://
    URL. They come back, in any order, with the columns of `run.SCHEMA` in place of `bytes`; other columns stay as they
    are. A picture that cannot be read, or a category that is not pinned, becomes a row with its `error` and no scores.

    Pictures are decoded in processes of their own while others are scored; a core for each worker has room for both.

    Args:
        pinned: for each category that occurs, the version it is scored with.
        rate: the false-positive rate to decide at; by default $O2N_FALSE_POSITIVE_RATE. Rows have the rate that was
            promised, which is higher where a category has too few normal pictures.
        workers: scoring actors, each with the models loaded once.
        maps: a folder or an s3:// prefix for anomaly maps, TIFF files of float32 (g, g), one value per patch; rows then
            say which is theirs. Equal pictures have equal maps, and share them.
        counterparts: the same for the pictures' normal counterparts, PNG files at the model's size.

    Raises:
        NotFoundError: a pinned version is not in the store; where it is collected later, the dataset ends with that.
    """
    decoded = pictures.map_batches(
        inputs.decoded,
        fn_kwargs={"sides": _resolutions(profile, store, pinned)},
        batch_size=4 * BATCH,
        batch_format="pyarrow",
        **_decoding(workers),
    )
    decide_at = get_settings().false_positive_rate if rate is None else rate
    return decoded.map_batches(
        _Scorer,
        fn_constructor_args=(profile, store, pinned, decide_at, maps, counterparts),
        batch_size=BATCH,
        batch_format="pyarrow",
        # On a GPU the features and nearest neighbours of one batch are computed while another is redrawn; a core does
        # one thing at a time.
        compute=ray.data.ActorPoolStrategy(
            size=workers,
            max_concurrent_calls_per_actor=2 if gpus_per_worker else 1,
            enable_true_multi_threading=bool(gpus_per_worker),
        ),
        num_cpus=_SCORING,
        num_gpus=gpus_per_worker,
    )


def score_run(run: Run, store: CategoryStore, *, workers: int = 1, gpus_per_worker: float = 0) -> Iterator[int]:
    """Score what a run has not scored yet, and keep it; yields the number of rows that were kept since.

    Raises:
        NotFoundError: a version of the run was collected: it cannot go on. O2NError: nor where another run has taken
        its output; or a worker failed: what is kept is kept, and the same run goes on from there.
    """
    parts = run.parts()
    if not parts:
        return
    request = run.plan.request
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    # A worker takes one block at a time, and a killed run does again what its workers had: let that be a shard at most.
    context.target_max_block_size = min(run.plan.shard * 3 * request.profile.diffusion.resolution**2, 32 << 20)
    numbers = ray.data.from_items([{"part": number} for number in range(len(parts))], override_num_blocks=len(parts))
    pictures = numbers.map_batches(
        run.read_parts, fn_kwargs={"parts": parts}, batch_size=1, batch_format="pyarrow", **_decoding(workers)
    )
    scored = score_dataset(
        pictures,
        request.profile,
        store,
        run.refs,
        rate=request.rate,
        workers=workers,
        gpus_per_worker=gpus_per_worker,
        maps=request.maps,
        counterparts=request.counterparts,
    )
    try:
        yield from run.collect(scored.iter_batches(batch_size=None, batch_format="pyarrow"))
    except ray.exceptions.RayError as error:
        run.check(store)
        cause = (str(error).strip().splitlines() or [type(error).__name__])[-1]
        raise O2NError(f"a worker failed ({cause}): scores are kept, run the same again to go on") from error


def _resolutions(profile: Profile, store: CategoryStore, pinned: dict[str, VersionRef]) -> dict[str, int]:
    """The size that each category's pictures are scored at. A version that is damaged is told of in its rows."""

    def of(ref: VersionRef) -> int:
        try:
            return store.manifest(ref).resolution
        except IntegrityError:
            return profile.diffusion.resolution

    with ThreadPoolExecutor(inputs.READERS) as threads:
        return dict(zip(pinned, threads.map(of, pinned.values()), strict=True))


def _decoding(workers: int) -> dict[str, Any]:
    """The same for reading and decoding, so that Ray Data does both in one process."""
    return {"num_cpus": _DECODING, "compute": ray.data.TaskPoolStrategy(size=2 * workers)}


class _Scorer:
    """One worker of the actor pool."""

    def __init__(
        self,
        profile: Profile,
        store: CategoryStore,
        pinned: dict[str, VersionRef],
        rate: float,
        maps: str | None,
        counterparts: str | None,
    ) -> None:
        self._scorer = TripletScorer(profile, store)
        self._store, self._pinned, self._rate = store, pinned, rate
        self._calibration = functools.cache(store.calibration)
        self._maps = open_objects(maps) if maps else None
        self._counterparts = open_objects(counterparts) if counterparts else None

    def __call__(self, table: pa.Table) -> pa.Table:
        names, errors = table["category"].cast(pa.string()).to_pylist(), table["error"].to_pylist()
        rows = [self._begun(name, error) for name, error in zip(names, errors, strict=True)]
        readable = [index for index, row in enumerate(rows) if not row["error"]]
        data = table["picture"]
        # Ray hands out read-only views of shared memory, and torch wants arrays of its own.
        flat = [np.frombuffer(data[index].as_py(), np.uint8).copy() for index in readable]
        pictures = [pixels.reshape(side := math.isqrt(len(pixels) // 3), side, 3) for pixels in flat]
        found = self._score(pictures, [self._pinned[rows[index]["category"]] for index in readable])
        for index, values in zip(readable, found, strict=True):
            rows[index] |= values
        scored = pa.Table.from_pylist(rows, schema=SCHEMA)
        if "path" in table.column_names:
            scored = scored.set_column(0, "path", table["path"].cast(pa.string()))
        for name in table.column_names:
            if name != "picture" and name not in SCHEMA.names:
                scored = scored.append_column(name, table[name])
        return scored

    def _begun(self, category: str | None, error: str | None) -> dict[str, Any]:
        ref = self._pinned.get(category or "")
        if not category:
            error = "the row has no category: give it one, or leave it out"
        elif ref is None:
            error = f"category {category} has no version to be scored with: pin one, or leave the row out"
        return {"category": category, "version": ref and ref.version, "error": error}

    def _score(self, pictures: list[Picture], refs: list[VersionRef]) -> list[dict[str, Any]]:
        try:
            scores = self._scorer.score(pictures, refs)
            decisions = [decide(s.score, self._calibration(s.ref), self._rate).values() for s in scores]
        except StoreError:
            raise  # a store that is away today says nothing of a picture
        except O2NError as error:
            if len(pictures) == 1:
                if isinstance(error, NotFoundError) and is_gone(self._store, refs[0]):
                    raise  # it was collected: no picture of its category can be scored any more
                return [{"error": str(error)}]
            # One category's broken version must not take the others' rows with it.
            return [row for one, ref in zip(pictures, refs, strict=True) for row in self._score([one], [ref])]
        return [
            {**s.values(), **decision, **self._drawn(picture, s)}
            for picture, s, decision in zip(pictures, scores, decisions, strict=True)
        ]

    def _drawn(self, picture: Picture, score: Score) -> dict[str, str]:
        """What is asked for beside the scores, kept under names that its picture and version give it."""
        name = f"{score.ref.category}/{score.ref.version}/{images.digest(picture)[:32]}"
        found = {}
        if self._maps:
            found["anomaly_map"] = _keep(self._maps, f"{name}.tiff", Image.fromarray(score.anomaly_map), "TIFF")
        if self._counterparts:
            found["counterpart"] = _keep(self._counterparts, f"{name}.png", Image.fromarray(score.counterpart), "PNG")
        return found


def _keep(objects: Objects, key: str, image: Image.Image, kind: str) -> str:
    file = io.BytesIO()
    image.save(file, kind)
    objects.put(key, file.getvalue())
    return f"{objects.url}/{key}"
