"""All that a version is made of -> its manifest, stage by stage.

Every stage's result is a blob remembered under the digest of what went in, so a run that was killed goes on where it
stopped, and running it again with the same inputs does nothing but name the same version.
"""

import json
from collections.abc import Sequence
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from itertools import islice

import torch
from torch import Tensor

from o2n import images
from o2n.bank import MemoryBank, coreset
from o2n.category import BlobName, BlobRef, Manifest
from o2n.customize import adapter_loaded, customize
from o2n.device import describe_machine
from o2n.foundation import Foundation
from o2n.images import Picture
from o2n.normals import calibrate, encode, leave_one_out, odd_reference
from o2n.place_weight import choose_place_weight
from o2n.pool import bank_origins, draw_pool, draw_prior, warped
from o2n.profiles import JUDGING, PLACES, Profile
from o2n.scales import UNSCALED, branch_scales
from o2n.screening import BATCH, PATIENCE, look_alike, passing
from o2n.stages import Stages
from o2n.store import CategoryStore
from o2n.text import text_features
from o2n.version import (
    pack,
    pack_pictures,
    pack_pool,
    unpack,
    unpack_calibration_scales,
    unpack_origins,
    unpack_pictures,
)

STAGES = (
    "prior",
    "adapter",
    "pool",
    "features",
    "place",
    "text_features",
    "scales",
    "normals",
    "distances",
    "calibration",
)

_LIBRARIES = ("o2n", "torch", "diffusers", "transformers", "open_clip_torch", "peft", "numpy")


@dataclass(frozen=True)
class VersionInputs:
    """All that a version is made of.

    word: what the prompts call the part. digests: of the references as they were given; files: where they come from,
    if from files. resized: those of them that are no copies, uint8 (R, R, 3); extras: further good pictures of that
    size that are none either, by their digests; warnings: what was left out of them.
    """

    name: str
    word: str
    profile: Profile
    digests: list[str]
    files: Sequence[str]
    resolution: int
    resized: list[Picture]
    extras: dict[str, Picture]
    warnings: tuple[str, ...]

    @property
    def distinct(self) -> list[str]:
        return list(dict.fromkeys(self.digests))

    def told(self, row: int) -> str:
        """Which reference the one at `row` of those that are no copies is, for its owner."""
        place = self.digests.index(self.distinct[row])
        # A manifest is text, and names on old file systems are none.
        file = f" ({self.files[place].encode(errors='replace').decode()})" if self.files else ""
        return f"{place + 1} of {len(self.digests)}{file}"


def make(inputs: VersionInputs, foundation: Foundation, stages: Stages, store: CategoryStore) -> Manifest:
    """Every stage in turn, down to the manifest that would be published. Raises: what stages and store do."""
    context = _Context(inputs, foundation, stages, store)
    references = stages.keep(pack_pictures(inputs.resized))
    adapter = _customised(context, references)
    bank = _bank(context, references, adapter)
    text = stages.run("text_features", context.base, lambda: pack(text_features(foundation.clip, inputs.word)))
    calibrated = _calibrated(context, adapter, bank, text)
    warnings = [*bank.warnings, *_doubts(context, calibrated["normals"], calibrated["distances"])]
    return Manifest(
        category=inputs.name,
        object_word=inputs.word,
        profile=inputs.profile,
        foundation=foundation.identity,
        blobs={
            "references": references,
            "adapter": adapter,
            "pool": bank.pool,
            "features": bank.features,
            "text_features": text,
            **calibrated,
            **({"kept": bank.kept} if bank.kept else {}),
        },
        chosen_place_weight=bank.place_weight if inputs.profile.place_weights else None,
        closer=inputs.resolution if inputs.resolution > inputs.profile.diffusion.resolution else None,
        reference_digests=inputs.distinct,
        created=datetime.now(UTC),
        libraries={library: metadata.version(library) for library in _LIBRARIES},
        warnings=warnings,
        machine=describe_machine(foundation.diffusion.device),
        seconds={stage: seconds for stage, seconds in stages.seconds.items() if stage not in stages.resumed},
    )


@dataclass(frozen=True)
class _Context:
    """What every stage is made with."""

    inputs: VersionInputs
    foundation: Foundation
    stages: Stages
    store: CategoryStore

    @property
    def base(self) -> list[str]:
        """What every stage hangs on that makes something: other weights in eq. (7) train no adapter again."""
        return self._hangs_on(*JUDGING)

    @property
    def judging(self) -> list[str]:
        """What those hang on that judge pictures with it."""
        return self._hangs_on()

    def _hangs_on(self, *not_on: str) -> list[str]:
        profile = self.inputs.profile.model_dump_json(exclude={**dict.fromkeys(("name", *not_on), True), **PLACES})
        return [self.foundation.identity, profile, self.inputs.word]

    def tensor(self, blob: BlobRef, what: str) -> Tensor:
        return unpack(self.store.get_blob(blob), what)

    def pictures(self, blob: BlobRef, what: str) -> list[Picture]:
        return unpack_pictures(self.store.get_blob(blob), what)

    def adapter(self, blob: BlobRef) -> AbstractContextManager[str]:
        """The category's own adapter in the UNet; gives its name there."""
        return adapter_loaded(self.foundation.diffusion, "o2n_onboarding", self.store.get_blob(blob))


@dataclass(frozen=True)
class _Bank:
    """The bank's generated pictures, its features, and which of its patches a budget keeps; of each of its pictures the
    reference it was made of, None for one drawn from nothing."""

    pool: BlobRef
    features: BlobRef
    kept: BlobRef | None
    origins: list[int | None]
    place_weight: float
    warnings: list[str]


def _customised(context: _Context, references: BlobRef) -> BlobRef:
    """The adapter (eq. 1)."""
    inputs, stages, model = context.inputs, context.stages, context.foundation.diffusion
    profile, word = inputs.profile, inputs.word
    prior = stages.run("prior", context.base, lambda: pack_pictures(draw_prior(model, word, profile)))
    made_of = [*context.base, references.sha256, prior.sha256]

    def make_adapter() -> bytes:
        steps = profile.customisation.steps
        return customize(
            model,
            inputs.resized,
            context.pictures(prior, "prior pictures"),
            word,
            profile.customisation,
            profile.seed,
            lambda step, loss: stages.on_progress(f"adapter, loss {loss:.3f}", step / (steps + 1)),
            stages.partial("adapter", made_of),
            lambda state: stages.keep_partial("adapter", made_of, state),
        )

    return stages.run("adapter", made_of, make_adapter)


def _bank(context: _Context, references: BlobRef, adapter: BlobRef) -> _Bank:
    """The pool and the bank of its features. A screened pool is filled up until there are as many that pass as the
    profile wants, or none is to be had any more."""
    inputs, stages, foundation = context.inputs, context.stages, context.foundation
    profile, resized, word = inputs.profile, inputs.resized, inputs.word
    views, wanted = _views(inputs), max(0, profile.pool.pictures - len(resized))

    def make_pool() -> bytes:
        with context.adapter(adapter) as name:
            if not profile.pool.screened:
                return pack_pictures(draw_pool(foundation.diffusion, name, resized, word, profile))
            with closing(passing(foundation, name, resized, word, first=0)) as pictures:
                return pack_pool(list(islice(pictures, wanted)))

    def make_features() -> bytes:
        drawn = [images.resize(one, inputs.resolution) for one in context.pictures(pool, "pool pictures")]
        return pack(encode(foundation, views + drawn))

    def choose_place() -> bytes:
        if not profile.place_weights:
            return json.dumps(profile.place_weight).encode()
        known = context.tensor(features, "features")[: len(views)]
        of_views = [origin for origin in origins[: len(views)] if origin is not None]
        return json.dumps(choose_place_weight(foundation, views, known, of_views, profile.place_weights)).encode()

    drawn_for = [*context.base, references.sha256, adapter.sha256, *(["filled up"] if profile.pool.screened else [])]
    pool = stages.run("pool", drawn_for, make_pool)
    origins, warnings = bank_origins(len(resized), profile), []
    if profile.pool.screened:
        passed = unpack_origins(context.store.get_blob(pool), "pool pictures")
        origins = [*origins[: len(views)], *passed]
        if len(passed) < wanted:
            warnings.append(
                f"the bank has {len(passed)} generated pictures, not {wanted}: of the last {PATIENCE * BATCH} none "
                "passes for normal beside the references"
            )
    features = stages.run("features", [*context.base, references.sha256, pool.sha256], make_features)
    place_weight = json.loads(
        context.store.get_blob(stages.run("place", [*context.base, features.sha256], choose_place))
    )

    kept = None
    if profile.pool.budget is not None:
        everything = context.tensor(features, "features")
        places, farthest = coreset(everything, profile.pool.budget, place_weight)
        kept = stages.keep(pack(places))
        if (whole := everything.shape[0] * everything.shape[2]) > places.shape[1]:
            warnings.append(
                f"the bank keeps {places.shape[1]} of {whole} patches a level to take no more than "
                f"{profile.pool.budget} bytes: what is left out is {farthest:.3f} from what is kept, at most"
            )
    return _Bank(pool, features, kept, origins, place_weight, warnings)


def _calibrated(context: _Context, adapter: BlobRef, bank: _Bank, text: BlobRef) -> dict[BlobName, BlobRef]:
    """What the branches say of good pictures: their scales, and the scores of references and further good pictures."""
    inputs, stages, foundation = context.inputs, context.stages, context.foundation
    profile, count = inputs.profile, len(inputs.resized)
    extras = list(inputs.extras.values())

    def kept() -> Tensor | None:
        return context.tensor(bank.kept, "kept patches") if bank.kept else None

    def make_scales() -> bytes:
        if profile.fusion == "sum":
            return pack(UNSCALED)
        with context.adapter(adapter) as name:
            rows, usual, without = branch_scales(
                foundation,
                name,
                _views(inputs),
                context.tensor(bank.features, "features"),
                bank.origins,
                kept(),
                bank.place_weight,
                context.tensor(text, "text features"),
                inputs.word,
            )
        return pack(rows, usual=usual, usual_without=without)

    def make_normals() -> bytes:
        own = context.tensor(bank.features, "features")[:count]
        return pack(torch.cat([own, encode(foundation, extras)]) if extras else own)

    def make_distances() -> bytes:
        features = context.tensor(bank.features, "features")
        own = leave_one_out(features, bank.origins, count, kept(), bank.place_weight)
        if not extras:
            return pack(own)
        queries = context.tensor(normals, "normals")[count:]
        return pack(torch.cat([own, MemoryBank(features, kept(), bank.place_weight).distance(queries)]))

    def make_calibration() -> bytes:
        with context.adapter(adapter) as name:
            made = calibrate(
                foundation,
                name,
                adapter.sha256,
                inputs.resized,
                extras,
                features=context.tensor(normals, "normals"),
                distances=context.tensor(distances, "distances"),
                text=context.tensor(text, "text features"),
                scales=unpack_calibration_scales(context.store.get_blob(scales), "scales", count=count + len(extras)),
                object_word=inputs.word,
            )
        return made.model_dump_json().encode()

    base, judging, features = context.base, context.judging, bank.features.sha256
    # The words tell it from what was made before: scales that do not say what is usual without each reference, and
    # distances to banks that had not filled up what a reference left out had stood for.
    in_budget = [] if profile.pool.budget is None else ["filled up"]
    scaled_by = [*judging, adapter.sha256, features, "usual without each reference", *in_budget]
    scales = stages.run("scales", scaled_by, make_scales)
    normals = stages.run("normals", [*base, features, *inputs.extras], make_normals)
    distances = stages.run("distances", [*base, features, normals.sha256, *in_budget], make_distances)
    judged_by = [*judging, adapter.sha256, scales.sha256, distances.sha256, normals.sha256]
    calibration = stages.run("calibration", judged_by, make_calibration)
    return {"scales": scales, "calibration": calibration, "normals": normals, "distances": distances}


def _views(inputs: VersionInputs) -> list[Picture]:
    return inputs.resized + warped(inputs.resized, inputs.profile.pool.warps)


def _doubts(context: _Context, normals: BlobRef, distances: BlobRef) -> list[str]:
    """What is doubtful about the references, in words for their owner."""
    inputs, count = context.inputs, len(context.inputs.resized)
    doubts = [
        f"references {inputs.told(one)} and {inputs.told(other)} look the same: if both are of one part, only one of "
        "them counts, and good parts seem to differ less than they do: add pictures of other parts"
        for one, other in look_alike(context.tensor(normals, "normals")[:count])
    ]
    if odd := odd_reference(context.tensor(distances, "distances")[:count]):
        doubts.append(
            f"reference {inputs.told(odd[0])} is {odd[1]:.1f} times as far from the others as any of those: "
            "if it is a good part and its picture is well taken, add more like it, or results hang on which are chosen"
        )
    return doubts
