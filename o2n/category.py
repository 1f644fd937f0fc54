"""What a category version is: its name, its manifest and the blobs it points to. Knows no store."""

import hashlib
import json
import re
from typing import Annotated, Literal, NamedTuple

from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field

from o2n.errors import CategoryError, in_words
from o2n.profiles import Profile

BlobName = Literal[
    "references",  # uint8 (n, R, R, 3): the references, then what was fed back
    "adapter",
    "pool",  # uint8 (m, R, R, 3): the generated pictures
    "features",  # float32 (N, S·L, G, D) of the bank: references, their moved views, `pool`, what was fed back
    "kept",  # int64 (S·L, M), of a bank with a budget alone: the patches that are in it, as for `MemoryBank`
    "text_features",  # float32 (2, E)
    "scales",  # float32 (3, 2), and of a calibrated version what is usual at each place: `scales.branch_scales`
    "calibration",  # `Calibration`, JSON; its pictures in the order of the two below, which only feedback reads
    "normals",  # float32 (c, S·L, G, D), their features
    "distances",  # float32 (c, S·L, G), to the nearest patch of the bank without the picture itself
]

MAX_WORD = 64  # characters of what prompts call a part

_PROVENANCE = {"created", "libraries", "warnings", "machine", "seconds"}

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")


def is_name(name: str) -> bool:
    """Whether `check_name` takes it."""
    return _NAME.fullmatch(name) is not None


def check_name(name: str) -> str:
    """Return `name` if it can name a category: 1-64 ASCII letters, digits, `-` and `_`, not starting with a sign.

    A name becomes part of a path, of a URL and of an S3 key, so everything that any of the three treats
    specially (slash, dot, space, other alphabets) is refused rather than escaped.

    Raises:
        CategoryError: the name is anything else.
    """
    if not is_name(name):
        shown = name if len(name) <= 40 else f"{name[:40]}… ({len(name)} characters)"
        raise CategoryError(
            f"category name {shown!r} is refused: use 1-64 ASCII letters, digits, '-' or '_', "
            "starting with a letter or digit"
        )
    return name


def _checked(name: str) -> str:
    try:
        return check_name(name)
    except CategoryError as error:
        raise ValueError(str(error)) from None


CategoryName = Annotated[str, AfterValidator(_checked)]
Verdict = Literal["normal", "anomalous", "withdrawn"]  # the last: of a picture that was said to be normal
VersionId = Annotated[str, Field(pattern=r"^[0-9a-f]{16}$"), in_words("a version is 16 hexadecimal digits")]
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class VersionRef(NamedTuple):
    """One version of one category: what every scoring call is pinned to."""

    category: str
    version: str


class BlobRef(BaseModel):
    """Immutable bytes in the store, named by their SHA-256."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    sha256: Digest
    size: int = Field(ge=0)

    @classmethod
    def of(cls, data: bytes) -> "BlobRef":
        """The reference that `data` will have in any store."""
        return cls(sha256=hashlib.sha256(data).hexdigest(), size=len(data))


class Feedback(BaseModel):
    """What an inspector said of one picture.

    A normal one is in the bank and the calibration of the version whose manifest has this record, and of those after
    it, until it is withdrawn. An anomalous one is kept for evaluation.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    verdict: Verdict
    by: str = Field(min_length=1, max_length=128, description="who said so")
    note: str | None = Field(None, max_length=1024)
    at: AwareDatetime
    picture: Digest = Field(description="`images.digest` of it at the version's resolution")
    version: VersionId = Field(description="the version that the verdict was given on")
    blob: BlobRef | None = Field(None, description="an anomalous picture as a PNG; a normal one is in the references")


class Manifest(BaseModel):
    """Everything a scorer needs to know of one version, and where it came from. Immutable once written."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    category: CategoryName
    object_word: str = Field(min_length=1, max_length=MAX_WORD)
    profile: Profile
    foundation: str = Field(description="identity of the models, 16 hex digits: `Foundation.identity`")
    blobs: dict[BlobName, BlobRef]
    closer: int | None = Field(
        None,
        gt=0,
        le=8192,
        exclude_if=lambda side: side is None,  # so that versions which were stored without it keep their names
        description="side of the pictures that are kept and scored, where it is more than the diffusion model's",
    )
    chosen_place_weight: float | None = Field(
        None,
        ge=0,
        le=100,
        exclude_if=lambda weight: weight is None,
        description="the one of the profile's place weights that suits this category, where it has some to choose from",
    )
    reference_digests: list[Digest] = Field(description="SHA-256 of every reference's decoded pixels")
    parent: VersionId | None = Field(None, description="the version that the last feedback was given to")
    onboarded: VersionId | None = Field(
        None,
        exclude_if=lambda version: version is None,
        description="of a version made by feedback: the one that onboarding made",
    )
    feedback: list[Feedback] = Field(
        [], description="pictures that were said to be normal since, and of these what was withdrawn, oldest first"
    )
    created: AwareDatetime
    libraries: dict[str, str] = Field(description="versions of the libraries that made the blobs")
    warnings: list[str] = Field([], description="what onboarding found doubtful, such as a reference unlike the others")
    machine: str = Field("", description="what the blobs were made on")
    seconds: dict[str, float] = Field({}, description="what each stage took, of those that were not recalled")

    @property
    def resolution(self) -> int:
        """Side of the pictures that the version keeps and scores, pixels."""
        return self.closer or self.profile.diffusion.resolution

    @property
    def place_weight(self) -> float:
        """What it costs S_N to find a patch elsewhere, as in `Profile`."""
        return self.profile.place_weight if self.chosen_place_weight is None else self.chosen_place_weight

    @property
    def fed_back(self) -> list[Feedback]:
        """The verdicts by which pictures are in the bank, in the order in which these are its last."""
        normal: dict[str, Feedback] = {}
        for said in self.feedback:
            normal.pop(said.picture, None)
            if said.verdict == "normal":
                normal[said.picture] = said
        return list(normal.values())

    @property
    def version(self) -> str:
        """16 hex digits derived from what the version *is*; the same inputs give the same version anywhere.

        When, where and with which library versions it was made is provenance and does not count; nor do warnings, which
        are words about the same blobs. Who fed a picture back does count, so that no attribution is ever overwritten.
        """
        content = self.model_dump(mode="json", exclude=_PROVENANCE)
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]

    @property
    def ref(self) -> VersionRef:
        return VersionRef(self.category, self.version)


class Pointer(BaseModel):
    """`current.json`: which version of a category serves now, and which ones did before."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: VersionId
    history: list[VersionId] = Field(default=[], description="versions that served before, oldest first")
