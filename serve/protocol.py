"""What travels over HTTP, both ways. Every field a client sends or gets is declared here, with examples."""

import base64
from typing import Annotated, Any, Literal

from pydantic import AwareDatetime, BaseModel, BeforeValidator, ConfigDict, Field

from o2n.category import Verdict

MAX_PICTURES = 64

Include = Literal["anomaly_map", "overlay", "counterpart", "reference"]


def _from_base64(text: object) -> bytes:
    # pydantic's own Base64Bytes skips what is not in the alphabet instead of refusing it.
    if not isinstance(text, str):
        raise ValueError("must be a string in base64")
    try:
        return base64.b64decode(text, validate=True)
    except ValueError:
        raise ValueError("is not base64") from None


def example(**values: Any) -> ConfigDict:
    """A model's configuration that gives OpenAPI an example of it."""
    return ConfigDict(json_schema_extra={"examples": [values]})


PNG = "iVBORw0KGgoAAAANSUhEUgAAABAAAAAQCAIAAACQkWg2AAAAGElEQVR42mNoIBEwjGoY1TCqYVQDeRoA1BoP8ENLbHkAAAAASUVORK5CYII="
"""A picture of 16 × 16 grey pixels, for examples that can be sent as they are."""


class PictureIn(BaseModel):
    """One picture in a JSON request."""

    model_config = ConfigDict(extra="forbid")

    name: str = Field("picture", max_length=512, description="how errors and the answer call it")
    data: Annotated[
        bytes, BeforeValidator(_from_base64, json_schema_input_type=Annotated[str, Field(examples=[PNG])])
    ] = Field(description="the file's bytes, base64; never a URL")


class ScoreRequest(BaseModel):
    """The JSON form of a score request; the other is multipart with any number of `pictures` files."""

    model_config = ConfigDict(extra="forbid") | example(pictures=[{"name": "new.png", "data": PNG}])

    pictures: Annotated[list[PictureIn], Field(min_length=1, max_length=MAX_PICTURES)]


class PictureScore(BaseModel):
    """One picture's score; higher is more anomalous. In a calibrated profile, in deviations of good pictures."""

    name: str
    score: float = Field(description="S_P + alpha S_N + beta S_text")
    s_p: float = Field(description="against its own normal counterpart")
    s_n: float = Field(description="against the nearest normal patches")
    s_text: float = Field(description="against the text prompts")
    p_value: float = Field(description="share of normal pictures that score at least as high; conformal")
    threshold: float = Field(description="scores above it are anomalous")
    is_anomalous: bool
    false_positive_rate: float = Field(description="the share of normal pictures that is called anomalous at most")
    note: str | None = Field(None, description="why that is not the rate that was asked for")
    anomaly_map: list[list[float]] | None = Field(None, description="one value per patch, rows from the top")
    overlay: str | None = Field(
        None, description="PNG, base64: the picture, at most 1024 pixels a side, with its heat map"
    )
    counterpart: str | None = Field(None, description="PNG, base64: what it should have looked like")
    reference: str | None = Field(None, description="PNG, base64: the category's normal picture nearest to it")


_SCORE = {
    "name": "new.png",
    "score": 87.34,
    "s_p": 25.66,
    "s_n": 29.63,
    "s_text": 4.84,
    "p_value": 0.1,
    "threshold": 12.5,
    "is_anomalous": True,
    "false_positive_rate": 0.1,
    "note": "a false-positive rate of 5% cannot be promised with 9 normal pictures: decided at 10%; 10 more are needed",
}


class ScoreAnswer(BaseModel):
    """All pictures of a request, in its order, scored with one and the same version."""

    model_config = example(category="bolts", version="7d206324509daeec", pictures=[_SCORE])

    category: str
    version: str
    pictures: list[PictureScore]


class FeedbackRequest(BaseModel):
    """An inspector's verdict on a picture. The multipart form has a file `picture` and fields `verdict` and `note`."""

    model_config = ConfigDict(extra="forbid") | example(
        picture={"name": "new.png", "data": PNG}, verdict="normal", note="a shadow, not a scratch"
    )

    picture: PictureIn
    verdict: Verdict
    note: str | None = Field(None, max_length=1024)


class FeedbackAnswer(BaseModel):
    """What became of the verdict: the version that serves now, which after `normal` knows the picture, and after
    `withdrawn` no more."""

    model_config = example(
        category="bolts", version="0b6f1f5de0f1a2c3", verdict="normal", by="line-3", counts_as_normal=True
    )

    category: str
    version: str
    verdict: Verdict
    by: str = Field(description="name of the token it was given with")
    counts_as_normal: bool = Field(
        description="whether it is among the normal pictures of that version: references, further ones, or fed back"
    )


_VERDICT: dict[str, Any] = {
    "verdict": "normal",
    "by": "line-3",
    "note": "a shadow, not a scratch",
    "at": "2026-11-24T09:30:00Z",
    "picture": "9f2c" * 16,
    "version": "7d206324509daeec",
}


class FeedbackEntry(BaseModel):
    """One verdict that was given."""

    model_config = example(**_VERDICT)

    verdict: Verdict
    by: str
    note: str | None
    at: AwareDatetime
    picture: str = Field(description="SHA-256 of its pixels at the version's resolution")
    version: str = Field(description="the version that the verdict was given on")


class ListedFeedback(FeedbackEntry):
    """One verdict among all that were given, and whether it holds."""

    model_config = example(**_VERDICT, in_bank=True)

    in_bank: bool = Field(
        description="whether the version that was published last has the picture in its bank by this verdict: not "
        "after it was withdrawn or rolled back"
    )


class VersionAnswer(BaseModel):
    """The version of a category that serves now."""

    model_config = example(category="bolts", version="7d206324509daeec")

    category: str
    version: str


_CATEGORY: dict[str, Any] = {
    "category": "bolts",
    "version": "7d206324509daeec",
    "created": "2026-11-24T09:00:00+00:00",
    "references": 4,
    "object_word": "hex bolt",
    "profile": "tiny",
    "history": ["0b6f1f5de0f1a2c3"],
}


class CategoryAnswer(BaseModel):
    """A category and what serves for it."""

    model_config = example(**_CATEGORY)

    category: str
    version: str
    created: str
    references: int
    object_word: str
    profile: str
    history: list[str] = Field(description="versions that served before, oldest first")
    refused: str | None = Field(
        None, description="why the version that was published last does not serve, if it cannot"
    )


class VersionEntry(BaseModel):
    """One version of a category, and the verdict that made it where no onboarding did."""

    version: str
    created: AwareDatetime
    feedback: FeedbackEntry | None = None


class CategoryDetails(CategoryAnswer):
    """A category with what it takes to understand its scores and to go back to an earlier version."""

    model_config = example(
        **_CATEGORY,
        weights={"s_p": 1.0, "s_n": 2.0, "s_text": 0.5},
        calibration=[-0.4, 0.3, 1.1, 2.6],
        versions=[{"version": "7d206324509daeec", "created": "2026-11-24T09:00:00Z", "feedback": None}],
    )

    weights: dict[str, float] = Field(description="what s_p, s_n and s_text count in the score")
    calibration: list[float] = Field(description="scores of good pictures, ascending: what decisions are made by")
    versions: list[VersionEntry] = Field(description="the version that serves and those before it, latest first")


class ErrorBody(BaseModel):
    code: str = Field(description="what programs tell errors apart by")
    message: str = Field(description="what was wrong and what to do, in one line")
    request_id: str = Field(description="what the service's log knows the request by; also in `x-request-id`")


class ErrorAnswer(BaseModel):
    """The one shape of every error."""

    model_config = example(
        error={"code": "not_found", "message": "category bolts is not in the store", "request_id": "5f2b6c0e9d"}
    )

    error: ErrorBody


_MESSAGES = {
    400: ("bad_picture", "new.png: is no picture of a format that is read: send PNG, JPEG, BMP, TIFF, WEBP, GIF"),
    401: ("unauthorized", "the token is unknown or was revoked: make one with 'o2n tokens create'"),
    403: ("forbidden", "token line-3 has no scope 'feedback': make one that has it"),
    404: ("not_found", "category bolts is not in store s3://plant: see 'o2n categories list', or onboard it"),
    408: ("too_slow", "the body arrives too slowly (12 bytes, then 8 s of almost nothing): send 64 KiB a second"),
    409: ("conflict", "category bolts serves version 0b6f1f5de0f1a2c3 by now: try again"),
    413: ("too_large", "the body is over 64 MiB: send fewer or smaller pictures"),
    422: ("invalid_request", "query.false_positive_rate: Input should be less than 1"),
    429: ("overloaded", "the service has more work than it can answer in time: try again later"),
    500: ("integrity", "blob 9f2c… in store s3://plant was altered: onboard its category again"),
    503: ("store", "store s3://plant cannot be used: check O2N_S3_ENDPOINT and the network"),
}


def responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The errors of a route as OpenAPI documents them."""
    documented: dict[int | str, dict[str, Any]] = {}
    for status in statuses:
        code, message = _MESSAGES[status]
        shown = {"error": {"code": code, "message": message, "request_id": "5f2b6c0e9d"}}
        documented[status] = {"model": ErrorAnswer, "content": {"application/json": {"example": shown}}}
        if status in (429, 503):
            documented[status]["headers"] = {
                "Retry-After": {"description": "seconds to wait", "schema": {"type": "integer"}}
            }
        if status == 401:
            documented[status]["headers"] = {
                "WWW-Authenticate": {"description": "the scheme: Bearer", "schema": {"type": "string"}}
            }
    return documented
