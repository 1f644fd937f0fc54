"""References -> a published category version, stage by stage. Read top to bottom, this is onboarding.

Every stage's result is a blob remembered under the digest of what went in, so a run that was killed goes on where it
stopped, and running it again with the same inputs does nothing but name the same version. Nobody sees a version
before its last stage, the move of the pointer.
"""

import json
import platform
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

import numpy as np
import torch

from o2n import images, places, sources
from o2n.bank import MemoryBank, coreset
from o2n.branches import pack, unpack, unpack_calibration_scales
from o2n.category import BlobRef, Manifest, VersionRef, check_name
from o2n.customize import adapter_loaded, customize
from o2n.errors import CategoryError, IntegrityError, NotFoundError
from o2n.foundation import load_foundation
from o2n.images import Picture
from o2n.normals import calibrate, encode, leave_one_out, odd_reference
from o2n.place import choose_place_weight
from o2n.pool import bank_origins, draw_pool, draw_prior, warped
from o2n.profiles import Profile
from o2n.scales import UNSCALED, branch_scales
from o2n.screening import acceptable
from o2n.stages import NotMadeError, Progress, Stages
from o2n.store import CategoryStore
from o2n.text import text_features

MIN_REFERENCES = 2
MAX_REFERENCES = 64
# Of a full-size encoder the features of so many are 2.4 GB, which are written once and read with every feedback.
MAX_MORE_NORMAL = 500

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
class Onboarded:
    """What an onboarding came to: the version now served, which stages were recalled, seconds per stage, what is
    doubtful about the references, in words for their owner, and whether nothing changed: it was served before."""

    ref: VersionRef
    resumed: tuple[str, ...]
    seconds: dict[str, float]
    warnings: tuple[str, ...] = ()
    unchanged: bool = False


@dataclass(frozen=True)
class Preview:
    """What an onboarding would come to: the stages that would be made, and the version, if it is known by now."""

    missing: tuple[str, ...]
    ref: VersionRef | None = None
    unchanged: bool = False


def read_references(place: Path | str) -> dict[str, Picture]:
    """All pictures in a folder or under an s3:// prefix, or in its train/good, decoded and checked, by their files;
    those without a picture's suffix are left out.

    A file that should be a picture and is none refuses the whole folder: a category is never quietly built from
    fewer pictures than its owner chose.

    Raises:
        CategoryError: no folder, too few distinct pictures in it, or too many.
        PictureError: a picture that cannot be decoded or is refused.
        StoreError: S3 cannot be reached.
    """
    files = sources.good_pictures(str(place))
    if files is None:
        why = places.why_none(str(place))
        raise CategoryError(f"references {place}: {why}; give a folder of {MIN_REFERENCES} to 8 good pictures")
    _check_count(len(files), str(place))
    references = {file: sources.read_picture(file) for file in files}
    _check_references(list(references.values()), str(place))
    return references


def read_more_normal(place: Path | str, resolution: int) -> list[Picture]:
    """All pictures in a folder or under an s3:// prefix, at the version's resolution, so that hundreds fit in memory.

    Raises:
        CategoryError: no folder, no pictures in it, or too many.
        PictureError: a picture that cannot be decoded or is refused.
        StoreError: S3 cannot be reached.
    """
    files = places.files_in(str(place))
    if files is None:
        why = places.why_none(str(place))
        raise CategoryError(f"more normal pictures {place}: {why}; give one with pictures of good parts")
    if not files:
        raise CategoryError(f"more normal pictures {place}: no pictures in it; give a folder with some of good parts")
    _check_more_normal(len(files), str(place))
    return [images.resize(sources.read_picture(file), resolution) for file in files]


def onboard(
    name: str,
    references: list[Picture],
    profile: Profile,
    store: CategoryStore,
    object_word: str | None = None,
    on_progress: Progress = lambda stage, done: None,
    more_normal: Sequence[Picture] = (),
    files: Sequence[str] = (),
) -> Onboarded:
    """Make a version of category `name` from pictures of good parts, and let it serve.

    Where the very version serves already, or one that differs by what was fed back to it since, nothing changes.

    Args:
        references: uint8 (H, W, 3), of any sizes.
        object_word: what the prompts call the part; by default the name, its signs turned into spaces.
        more_normal: further good pictures, uint8 (H, W, 3), for the calibration alone: the more there are, the lower
            the false-positive rates that can be promised. Copies of references and of each other do not count.
        files: where the references come from, if from files: what warnings call them.

    Raises:
        CategoryError: a name or references that cannot be used.
        FoundationError, StoreError: models or store that cannot be.
    """
    inputs = _checked(name, references, profile, object_word, more_normal)
    serving = _serving(inputs, store)
    if serving:
        on_progress("published", 1.0)
        return Onboarded(serving.ref, STAGES, {}, (*inputs.warnings, *serving.warnings), unchanged=True)
    stages = Stages(store, on_progress)
    manifest = _make(stages, inputs, store, files)
    begun = time.perf_counter()
    ref = store.publish(manifest)
    seconds = {**stages.seconds, "publish": round(time.perf_counter() - begun, 3)}
    on_progress("published", 1.0)
    return Onboarded(ref, tuple(stages.resumed), seconds, (*inputs.warnings, *manifest.warnings))


def preview(
    name: str,
    references: list[Picture],
    profile: Profile,
    store: CategoryStore,
    object_word: str | None = None,
    more_normal: Sequence[Picture] = (),
) -> Preview:
    """What `onboard` would do with the same arguments; makes nothing and writes nothing. Raises as it does."""
    inputs = _checked(name, references, profile, object_word, more_normal)
    serving = _serving(inputs, store)
    if serving:
        return Preview((), serving.ref, unchanged=True)
    stages = Stages(store, lambda stage, done: None, recall_only=True)
    try:
        made = _make(stages, inputs, store)
    except (NotMadeError, NotFoundError):  # the latter where a run was stopped between two stages
        return Preview(tuple(stage for stage in STAGES if stage not in stages.resumed))
    return Preview((), made.ref)


def describe_machine(device: torch.device) -> str:
    """What stages run on, in words: times on two machines of one description can be compared."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    threads = torch.get_num_threads()
    return f"{platform.machine()} {device.type}, {threads} thread{'s' * (threads != 1)}"


@dataclass(frozen=True)
class _Inputs:
    """All that a version is made of. digests: of the references as they were given; resized: those of them that are no
    copies, uint8 (R, R, 3); extras: further good pictures of that size that are none either, by their digests;
    warnings: what was left out of them."""

    name: str
    word: str
    profile: Profile
    digests: list[str]
    resolution: int
    resized: list[Picture]
    extras: dict[str, Picture]
    warnings: tuple[str, ...]

    @property
    def distinct(self) -> list[str]:
        return list(dict.fromkeys(self.digests))


def _checked(
    name: str, references: list[Picture], profile: Profile, object_word: str | None, more_normal: Sequence[Picture]
) -> _Inputs:
    check_name(name)
    _check_references(references, name)
    _check_more_normal(len(more_normal), name)
    digests = [images.digest(reference) for reference in references]
    resolution = profile.resolution(smallest_side(references))
    # A copy of a reference brings nothing, and would stay in the bank from which that reference is left out.
    distinct = dict(zip(digests, references, strict=True)).values()
    resized = [images.resize(reference, resolution) for reference in distinct]
    extras = {images.digest(one): one for one in (images.resize(picture, resolution) for picture in more_normal)}
    for reference in resized:
        extras.pop(images.digest(reference), None)
    warnings: tuple[str, ...] = ()
    if copies := len(more_normal) - len(extras):
        warnings = (
            f"{copies} of {len(more_normal)} more normal pictures do not count, as copies of references or of each "
            f"other: {len(extras)} do",
        )
    return _Inputs(name, sources.class_word(name, object_word), profile, digests, resolution, resized, extras, warnings)


def _serving(inputs: _Inputs, store: CategoryStore) -> Manifest | None:
    """The version that serves now, if it was onboarded with these and is whole, whatever was fed back since.

    It is known by what went in: what comes out may differ in last digits from one machine to the next.
    """
    try:
        serving = store.manifest(store.current(inputs.name))
        same = (serving.reference_digests, serving.object_word, serving.profile) == (
            inputs.distinct,
            inputs.word,
            inputs.profile,
        )
        if not same or serving.foundation != load_foundation(inputs.profile).identity:
            return None
        fed_back = {said.picture for said in serving.feedback}
        extras = {one.picture for one in store.calibration(serving.ref).pictures if one.origin == "extra"}
        if not extras <= set(inputs.extras) <= extras | fed_back:
            return None
        store.check_whole(serving)
    except (NotFoundError, IntegrityError):  # none yet, or one that is to be replaced
        return None
    return serving


def _make(stages: Stages, inputs: _Inputs, store: CategoryStore, files: Sequence[str] = ()) -> Manifest:
    """Every stage in turn, down to the manifest that would be published. Args: files: what to call the references."""
    name, word, profile = inputs.name, inputs.word, inputs.profile
    resolution, resized, extras = inputs.resolution, inputs.resized, inputs.extras
    foundation = load_foundation(profile)
    model = foundation.diffusion

    references_blob = stages.keep(pack(torch.from_numpy(np.stack(resized))))
    base = [foundation.identity, profile.model_dump_json(exclude={"name"}), word]

    prior_blob = stages.run("prior", base, lambda: _pack_pictures(draw_prior(model, word, profile)))

    def make_adapter() -> bytes:
        prior = _unpack_pictures(store, prior_blob, "prior pictures")
        steps = profile.customisation.steps
        so_far = stages.partial("adapter", adapter_inputs)
        return customize(
            model,
            resized,
            prior,
            word,
            profile.customisation,
            profile.seed,
            lambda step, loss: stages.on_progress(f"adapter, loss {loss:.3f}", step / (steps + 1)),
            so_far,
            lambda state: stages.keep_partial("adapter", adapter_inputs, state),
        )

    adapter_inputs = [*base, references_blob.sha256, prior_blob.sha256]
    adapter_blob = stages.run("adapter", adapter_inputs, make_adapter)

    def own_adapter() -> AbstractContextManager[str]:
        return adapter_loaded(model, "o2n_onboarding", store.get_blob(adapter_blob))

    def make_pool() -> bytes:
        with own_adapter() as adapter:
            return _pack_pictures(draw_pool(model, adapter, resized, word, profile))

    pool_blob = stages.run("pool", [*base, references_blob.sha256, adapter_blob.sha256], make_pool)

    views = resized + warped(resized, profile.pool.warps)

    def make_features() -> bytes:
        drawn = [images.resize(one, resolution) for one in _unpack_pictures(store, pool_blob, "pool pictures")]
        return pack(encode(foundation, views + drawn))

    features_blob = stages.run("features", [*base, references_blob.sha256, pool_blob.sha256], make_features)
    origins = bank_origins(len(resized), profile)

    def choose_place() -> bytes:
        if not profile.place_weights:
            return json.dumps(profile.place_weight).encode()
        known = unpack(store.get_blob(features_blob), "features")[: len(views)]
        of_views = [origin for origin in origins[: len(views)] if origin is not None]
        return json.dumps(choose_place_weight(foundation, views, known, of_views, profile.place_weights)).encode()

    place_blob = stages.run("place", [*base, features_blob.sha256], choose_place)
    place_weight = json.loads(store.get_blob(place_blob))

    if profile.pool.screened:
        features = unpack(store.get_blob(features_blob), "features")
        found = acceptable(features[: len(resized)], features[len(views) :])
        rows = [*range(len(views)), *(len(views) + place for place in found)]
        drawn = _unpack_pictures(store, pool_blob, "pool pictures")
        pool_blob = stages.keep(_pack_pictures([drawn[place] for place in found]))
        features_blob = stages.keep(pack(features[rows]))
        origins = [origins[row] for row in rows]
    kept_blob, warnings = None, []
    if profile.pool.budget is not None:
        features = unpack(store.get_blob(features_blob), "features")
        places, farthest = coreset(features, profile.pool.budget, place_weight)
        kept_blob = stages.keep(pack(places))
        if (whole := features.shape[0] * features.shape[2]) > places.shape[1]:
            warnings.append(
                f"the bank keeps {places.shape[1]} of {whole} patches a level to take no more than "
                f"{profile.pool.budget} bytes: what is left out is {farthest:.3f} from what is kept, at most"
            )

    def bank_kept() -> torch.Tensor | None:
        return unpack(store.get_blob(kept_blob), "kept patches") if kept_blob else None

    text_blob = stages.run("text_features", base, lambda: pack(text_features(foundation.clip, word)))

    def make_scales() -> bytes:
        if profile.fusion == "sum":
            return pack(UNSCALED)
        features = unpack(store.get_blob(features_blob), "features")
        text = unpack(store.get_blob(text_blob), "text features")
        with own_adapter() as adapter:
            rows, usual, without = branch_scales(
                foundation, adapter, views, features, origins, bank_kept(), place_weight, text, word
            )
        return pack(rows, usual=usual, usual_without=without)

    # The words tell it from what was made before: scales that do not say what is usual without each reference, and
    # distances to banks that had not filled up what a reference left out had stood for.
    in_budget = [] if profile.pool.budget is None else ["filled up"]
    scales_inputs = [*base, adapter_blob.sha256, features_blob.sha256, "usual without each reference", *in_budget]
    scales_blob = stages.run("scales", scales_inputs, make_scales)

    def make_normals() -> bytes:
        own = unpack(store.get_blob(features_blob), "features")[: len(resized)]
        return pack(torch.cat([own, encode(foundation, list(extras.values()))]) if extras else own)

    normals_blob = stages.run("normals", [*base, features_blob.sha256, *extras], make_normals)

    def make_distances() -> bytes:
        bank = unpack(store.get_blob(features_blob), "features")
        queries = unpack(store.get_blob(normals_blob), "normals")[len(resized) :]
        own = leave_one_out(bank, origins, len(resized), bank_kept(), place_weight)
        if not extras:
            return pack(own)
        return pack(torch.cat([own, MemoryBank(bank, bank_kept(), place_weight).distance(queries)]))

    distances_inputs = [*base, features_blob.sha256, normals_blob.sha256, *in_budget]
    distances_blob = stages.run("distances", distances_inputs, make_distances)

    def make_calibration() -> bytes:
        with own_adapter() as adapter:
            made = calibrate(
                foundation,
                adapter,
                adapter_blob.sha256,
                resized,
                list(extras.values()),
                features=unpack(store.get_blob(normals_blob), "normals"),
                distances=unpack(store.get_blob(distances_blob), "distances"),
                text=unpack(store.get_blob(text_blob), "text features"),
                scales=unpack_calibration_scales(
                    store.get_blob(scales_blob), "scales", count=len(resized) + len(extras)
                ),
                object_word=word,
            )
        return made.model_dump_json().encode()

    calibration_blob = stages.run(
        "calibration",
        [*base, adapter_blob.sha256, scales_blob.sha256, distances_blob.sha256, normals_blob.sha256],
        make_calibration,
    )

    if odd := odd_reference(unpack(store.get_blob(distances_blob), "distances")[: len(resized)]):
        place, count = inputs.digests.index(inputs.distinct[odd[0]]), len(inputs.digests)
        # A manifest is text, and names on old file systems are none.
        file = f" ({files[place].encode(errors='replace').decode()})" if files else ""
        warnings.append(
            f"reference {place + 1} of {count}{file} is {odd[1]:.1f} times as far from the others as any of those: "
            "if it is a good part and its picture is well taken, add more like it, or results hang on which are chosen"
        )

    return Manifest(
        category=name,
        object_word=word,
        profile=profile,
        foundation=foundation.identity,
        blobs={
            "references": references_blob,
            "adapter": adapter_blob,
            "pool": pool_blob,
            "features": features_blob,
            "text_features": text_blob,
            "scales": scales_blob,
            "calibration": calibration_blob,
            "normals": normals_blob,
            "distances": distances_blob,
            **({"kept": kept_blob} if kept_blob else {}),
        },
        chosen_place_weight=place_weight if profile.place_weights else None,
        closer=resolution if resolution > profile.diffusion.resolution else None,
        reference_digests=inputs.distinct,
        created=datetime.now(UTC),
        libraries={library: metadata.version(library) for library in _LIBRARIES},
        warnings=warnings,
        machine=describe_machine(model.device),
        seconds={stage: seconds for stage, seconds in stages.seconds.items() if stage not in stages.resumed},
    )


def smallest_side(pictures: list[Picture]) -> int:
    """The shortest of all their sides, pixels."""
    return min(min(picture.shape[:2]) for picture in pictures)


def _check_count(count: int, where: str) -> None:
    if count > MAX_REFERENCES:
        raise CategoryError(
            f"references of {where}: {count} pictures, at most {MAX_REFERENCES} are taken: "
            f"choose {MIN_REFERENCES} to 8 that show how good parts differ"
        )


def _check_more_normal(count: int, where: str) -> None:
    if count > MAX_MORE_NORMAL:
        raise CategoryError(
            f"more normal pictures of {where}: {count}, at most {MAX_MORE_NORMAL} are taken: 99 promise a rate of 1%"
        )


def _check_references(references: list[Picture], where: str) -> None:
    _check_count(len(references), where)
    distinct = len({images.digest(reference) for reference in references})
    if distinct < MIN_REFERENCES:
        copies = "" if distinct == len(references) else f" (of {len(references)}, the rest are copies)"
        raise CategoryError(
            f"references of {where}: {distinct} distinct picture{'s' * (distinct != 1)}{copies}, at least "
            f"{MIN_REFERENCES} are needed: give {MIN_REFERENCES} to 8 different pictures of good parts"
        )


def _pack_pictures(pictures: list[Picture]) -> bytes:
    return pack(torch.from_numpy(np.stack(pictures)) if pictures else torch.zeros((0, 0, 0, 3), dtype=torch.uint8))


def _unpack_pictures(store: CategoryStore, blob: BlobRef, what: str) -> list[Picture]:
    return list(unpack(store.get_blob(blob), what).numpy())
