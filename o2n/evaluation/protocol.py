"""One unit of the evaluation - a category, a draw of its references, a method - and what comes out of it.

Everything that decides an outcome is in the unit's digest, under which the outcome is kept. Nothing is fitted on
queries: no threshold, no normalisation; areas under curves need neither.
"""

import base64
import hashlib
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import BaseModel, ConfigDict

from o2n import images
from o2n.data.datasets.base import Mask, Sample
from o2n.device import processor
from o2n.errors import DataSetError
from o2n.evaluation.methods import METHODS, Builder, Method, Scores
from o2n.evaluation.methods.one_to_normal import OneToNormal, OneToNormalFitted
from o2n.evaluation.metrics import auprc, aupro, auroc
from o2n.files import replacing
from o2n.foundation import load_foundation
from o2n.fusion import upsample
from o2n.images import Picture
from o2n.profiles import PAPER, TINY, Profile
from o2n.text_map import refuse_trained_on

OURS = "one-to-normal"
ALL_METHODS: dict[str, Builder] = {OURS: OneToNormal, **METHODS}

BATCH = 16  # queries in memory at once

# Of a profile, what other methods than One-to-Normal can see of it, as long as they are given none of its pool.
SEEN_BY_OTHERS: Any = {
    **dict.fromkeys(["name", "encoder", "patch_encoder", "text_map", "seed"], True),
    "pool": {"warps"},
}


@dataclass(frozen=True)
class Unit:
    """What is run at once.

    method: its name in `ALL_METHODS`. pool: how many pictures of One-to-Normal's pool are added to the references; of
    One-to-Normal itself: how many are drawn and kept for the others. prompts: of One-to-Normal, numbers of prompts with
    which S_P is measured too, 0 being the empty prompt; where there are any, the other fusion is measured too.
    pixels: side at which maps and masks are compared. shown: how many defective queries' maps are kept to be looked at.
    """

    dataset: str
    category: str
    object_word: str
    shots: int
    draw: int
    method: str
    references: tuple[Sample, ...]
    queries: tuple[Sample, ...]
    pixels: int
    pool: int = 0
    prompts: tuple[int, ...] = ()
    shown: int = 0

    @property
    def name(self) -> str:
        pool = f" + {self.pool} of the pool" if self.pool and self.method != OURS else ""
        return f"{self.dataset}/{self.category}, {self.shots} shots, draw {self.draw}, {self.method}{pool}"


class Shown(BaseModel):
    """One query to be looked at. anomaly_map: rows of the map. counterpart: a PNG in base64, of One-to-Normal alone."""

    key: str
    anomaly_map: list[list[float]] | None
    counterpart: str | None = None


class UnitOutcome(BaseModel):
    """What one unit came to.

    figures: "AUROC", "AUPRC" and, where every defect has a mask and the method makes maps, "pixel AUROC" and "AUPRO",
    all in [0, 1]. parts: named parts of the scores. title: how tables call the method. pool: as in `Unit`, but 0 for
    One-to-Normal; added: how many pictures of it were good enough to be added. processor: what it was computed on.
    """

    model_config = ConfigDict(frozen=True)

    dataset: str
    category: str
    shots: int
    draw: int
    method: str
    title: str
    pool: int
    added: int = 0
    labels: list[bool]
    scores: list[float]
    parts: dict[str, list[float]]
    figures: dict[str, float]
    shown: list[Shown] = []
    processor: str = ""


def digest(unit: Unit, profile: Profile, identity: str, revision: str) -> str:
    """Under which the outcome of `unit` is kept: of all names of pictures and settings, of the weights (`identity`,
    `Foundation.identity`), and of how the method, and the pool if it is given one, is written (`revision`)."""
    seen = None if unit.method == OURS or unit.pool else SEEN_BY_OTHERS
    settings = {
        "category": [unit.dataset, unit.category, unit.object_word],
        "references": [sample.key for sample in unit.references],
        "queries": [sample.key for sample in unit.queries],
        "method": [unit.method, unit.pool, unit.prompts, unit.pixels, unit.shown],
        "revision": revision,
        "profile": profile.model_dump(mode="json", include=seen),
        "weights": identity,
    }
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()


def pool_file(folder: Path, unit: Unit, profile: Profile, identity: str, revision: str) -> Path:
    """Where the pool that One-to-Normal, at `revision`, draws from this unit's references is kept for the others."""
    settings = [unit.dataset, unit.category, unit.object_word, [sample.key for sample in unit.references], unit.pool]
    key = json.dumps([settings, profile.model_dump(mode="json"), identity, revision], sort_keys=True)
    return folder / "pools" / f"{hashlib.sha256(key.encode()).hexdigest()}.npz"


def run(unit: Unit, profile: Profile, pool: Path | None) -> UnitOutcome:
    """Fit, score, measure. One-to-Normal writes its pool to the file `pool`, the others add it to their references.

    Raises:
        O2NError: a picture or a model that cannot be used, or a text map that was trained on this very data set; no
            pool where one is needed.
    """
    asked = (images.digest(sample.read()) for sample in unit.queries)
    refuse_trained_on(load_foundation(profile).text_map, unit.dataset, asked)
    references = [sample.read() for sample in unit.references]
    method = build(unit.method, profile)
    added = _read_pool(pool) if unit.method != OURS and pool else []
    references += added
    fitted = method.fit(references, unit.object_word)
    starts = range(0, len(unit.queries), BATCH)
    batches = [unit.queries[start : start + BATCH] for start in starts]
    found = _together([fitted.score([sample.read() for sample in batch]) for batch in batches])
    parts = dict(found.parts)
    if isinstance(fitted, OneToNormalFitted):
        parts |= _ablations(fitted, unit, batches) if unit.prompts else {}
        if pool:
            _write_pool(pool, fitted.pool(unit.pool))
    labels = np.array([sample.anomalous for sample in unit.queries])
    return UnitOutcome(
        dataset=unit.dataset,
        category=unit.category,
        shots=unit.shots,
        draw=unit.draw,
        method=unit.method,
        title=method.name,
        pool=0 if unit.method == OURS else unit.pool,
        added=len(added),
        labels=labels.tolist(),
        scores=found.scores.tolist(),
        parts={name: values.tolist() for name, values in parts.items()},
        figures=_figures(found, labels, unit),
        shown=_shown(found, unit, fitted if isinstance(fitted, OneToNormalFitted) else None),
        processor=processor(),
    )


def prompts_part(count: int) -> str:
    """What S_P is called that was measured with `count` prompts."""
    return f"S_P, {count} prompts" if count else "S_P, no text"


def other_fusion(profile: Profile) -> Profile:
    """One that fuses the other way: as the paper does, or as `tiny`."""
    return PAPER if profile.fusion == "calibrated" else TINY


def fused_part(fusion: str) -> str:
    """What the whole score is called that was fused so, where the profile fuses the other way."""
    return f"S_P + S_N + S_text, {'calibrated' if fusion == 'calibrated' else 'as they are'}"


def asked_parts(unit: Unit, profile: Profile) -> set[str]:
    """The parts that an outcome has over and above those of its method: what tables 4 and 5 need beside it."""
    if not unit.prompts:
        return set()
    return {*map(prompts_part, unit.prompts), fused_part(other_fusion(profile).fusion)}


@cache
def build(name: str, profile: Profile) -> Method:
    """The method of that name, made once per process.

    Raises:
        FoundationError: it needs weights that are not here; the message says which and from where.
    """
    return ALL_METHODS[name](profile)


def revision(method: Method) -> str:
    """How a method is written, the `REVISION` of the module of its class, and its `weights`, if it has some of its own:
    those trained here differ from one kind of CPU to another."""
    number = sys.modules[type(method).__module__].REVISION
    return f"{number} {getattr(method, 'weights', '')}".strip()


def _ablations(
    fitted: OneToNormalFitted, unit: Unit, batches: Sequence[tuple[Sample, ...]]
) -> dict[str, NDArray[np.float64]]:
    """S_P with other prompts (table 5), and the whole score in the fusion that the profile has not chosen (table 4)."""
    parts = {}
    for count in unit.prompts:
        found = [fitted.personal([sample.read() for sample in batch], count) for batch in batches]
        parts[prompts_part(count)] = np.concatenate(found)
    other = other_fusion(fitted.profile)
    fused = fitted.fused_as(other)
    found = [fused([sample.read() for sample in batch]) for batch in batches]
    return parts | {fused_part(other.fusion): np.concatenate(found)}


def _figures(found: Scores, labels: NDArray[np.bool_], unit: Unit) -> dict[str, float]:
    figures = {"AUROC": auroc(found.scores, labels), "AUPRC": auprc(found.scores, labels)}
    masked = all(sample.mask is not None for sample in unit.queries if sample.anomalous)
    if found.maps is not None and masked:
        side = unit.pixels
        maps = np.stack([upsample(np.ascontiguousarray(one, np.float32), side, side) for one in found.maps])
        masks = np.stack([_mask(sample, side) for sample in unit.queries])
        if masks.any():
            figures |= {"pixel AUROC": auroc(maps, masks), "AUPRO": aupro(maps, masks)}
    return figures


def _mask(sample: Sample, side: int) -> Mask:
    if sample.mask is None:
        return np.zeros((side, side), bool)
    return np.asarray(Image.fromarray(sample.mask()).resize((side, side), Image.Resampling.NEAREST))


def _together(scored: list[Scores]) -> Scores:
    maps = [one.maps for one in scored if one.maps is not None]
    return Scores(
        np.concatenate([one.scores for one in scored]),
        np.concatenate(maps) if maps else None,
        {name: np.concatenate([one.parts[name] for one in scored]) for name in scored[0].parts},
    )


def _shown(found: Scores, unit: Unit, ours: OneToNormalFitted | None) -> list[Shown]:
    rows = [row for row, sample in enumerate(unit.queries) if sample.anomalous][: unit.shown]
    if not rows:
        return []
    counterparts: list[str | None] = [None] * len(rows)
    if ours:
        looked = ours.look([unit.queries[row].read() for row in rows])
        counterparts = [base64.b64encode(images.encode_png(score.counterpart)).decode() for score in looked]
    maps = found.maps
    return [
        Shown(key=unit.queries[row].key, anomaly_map=None if maps is None else maps[row].tolist(), counterpart=png)
        for row, png in zip(rows, counterparts, strict=True)
    ]


def _write_pool(file: Path, pictures: list[Picture]) -> None:
    with replacing(file) as part, part.open("wb") as opened:  # NumPy would add .npz to a path's name
        np.savez_compressed(opened, pictures=np.array(pictures, np.uint8))  # none, where none was good enough


def _read_pool(file: Path) -> list[Picture]:
    if not file.is_file():
        raise DataSetError(f"{file}: the pool of these references is not there: run {OURS} on them too")
    with np.load(file, allow_pickle=False) as kept:
        return list(kept["pictures"])
