"""References -> a published category version: checked, held against what serves, made, and let serve.

Nobody sees a version before its last stage, the move of the pointer.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from o2n import images, places, sources
from o2n.category import Manifest, VersionRef, check_name
from o2n.errors import CategoryError, IntegrityError, NotFoundError
from o2n.foundation import load_foundation
from o2n.images import Picture
from o2n.making import STAGES, VersionInputs, make
from o2n.profiles import Profile
from o2n.stages import NotMadeError, Progress, Stages
from o2n.store import CategoryStore

MIN_REFERENCES = 2
MAX_REFERENCES = 64
# Of a full-size encoder the features of so many are 2.4 GB, which are written once and read with every feedback.
MAX_MORE_NORMAL = 500


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
    """What an onboarding would come to: the stages that would be made, the version, if it is known by now, and what is
    doubtful so far."""

    missing: tuple[str, ...]
    ref: VersionRef | None = None
    unchanged: bool = False
    warnings: tuple[str, ...] = ()


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
    inputs = _checked(name, references, profile, object_word, more_normal, files)
    serving = _serving(inputs, store)
    if serving:
        on_progress("published", 1.0)
        return Onboarded(serving.ref, STAGES, {}, (*inputs.warnings, *serving.warnings), unchanged=True)
    stages = Stages(store, on_progress)
    manifest = make(inputs, load_foundation(profile), stages, store)
    warnings = (*inputs.warnings, *manifest.warnings, *_left_behind(inputs, store))
    begun = time.perf_counter()
    ref = store.publish(manifest)
    seconds = {**stages.seconds, "publish": round(time.perf_counter() - begun, 3)}
    on_progress("published", 1.0)
    return Onboarded(ref, tuple(stages.resumed), seconds, warnings)


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
        return Preview((), serving.ref, unchanged=True, warnings=(*inputs.warnings, *serving.warnings))
    stages = Stages(store, lambda stage, done: None, recall_only=True)
    try:
        made = make(inputs, load_foundation(profile), stages, store)
    except (NotMadeError, NotFoundError):  # the latter where a run was stopped between two stages
        missing = tuple(stage for stage in STAGES if stage not in stages.resumed)
        return Preview(missing, warnings=(*inputs.warnings, *_left_behind(inputs, store)))
    return Preview((), made.ref, warnings=(*inputs.warnings, *made.warnings, *_left_behind(inputs, store)))


def _checked(
    name: str,
    references: list[Picture],
    profile: Profile,
    object_word: str | None,
    more_normal: Sequence[Picture],
    files: Sequence[str] = (),
) -> VersionInputs:
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
    warnings = []
    if copies := len(references) - len(distinct):
        warnings.append(
            f"{copies} of {len(references)} references do not count, as copies of others: {len(distinct)} do"
        )
    if copies := len(more_normal) - len(extras):
        warnings.append(
            f"{copies} of {len(more_normal)} more normal pictures do not count, as copies of references or of each "
            f"other: {len(extras)} do"
        )
    word = sources.class_word(name, object_word)
    return VersionInputs(name, word, profile, digests, files, resolution, resized, extras, tuple(warnings))


def _serving(inputs: VersionInputs, store: CategoryStore) -> Manifest | None:
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
        judged = {said.picture for said in serving.feedback}  # an inspector's later word counts
        extras = {one.picture for one in store.calibration(serving.ref).pictures if one.origin == "extra"}
        if not extras <= set(inputs.extras) <= extras | judged:
            return None
        store.check_whole(serving)
    except (NotFoundError, IntegrityError):  # none yet, or one that is to be replaced
        return None
    return serving


def _left_behind(inputs: VersionInputs, store: CategoryStore) -> tuple[str, ...]:
    """A warning where pictures were fed back to the version that serves: what is onboarded anew is without those that
    are no references."""
    try:
        serving = store.manifest(store.current(inputs.name))
    except (NotFoundError, IntegrityError):
        return ()
    count = len({said.picture for said in serving.fed_back} - set(map(images.digest, inputs.resized)))
    if not count:
        return ()
    pictures = "1 picture that was" if count == 1 else f"{count} pictures that were"
    return (
        f"{pictures} fed back as normal to version {serving.version} {'is' if count == 1 else 'are'} not in the new "
        f"one: feed {'it' if count == 1 else 'them'} back again, or roll back",
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
