"""What travels over HTTP, both ways. Every field a client sends or gets is declared here."""

import base64
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

MAX_PICTURES = 64
MAX_BODY_BYTES = 64 << 20

Include = Literal["anomaly_map", "overlay", "counterpart", "reference"]


def _from_base64(text: object) -> bytes:
    # pydantic's own Base64Bytes skips what is not in the alphabet instead of refusing it.
    if not isinstance(text, str):
        raise ValueError("must be a string in base64")
    return base64.b64decode(text, validate=True)


class PictureIn(BaseModel):
    """One picture in a JSON request."""

    model_config = ConfigDict(extra="forbid")

    name: str = Field("picture", max_length=512, description="how errors and the answer call it")
    data: Annotated[bytes, BeforeValidator(_from_base64)] = Field(description="the file's bytes, base64; never a URL")


class ScoreRequest(BaseModel):
    """The JSON form of a score request; the other is multipart with any number of `pictures` files."""

    model_config = ConfigDict(extra="forbid")

    pictures: Annotated[list[PictureIn], Field(min_length=1, max_length=MAX_PICTURES)]


class PictureScore(BaseModel):
    """One picture's score; higher is more anomalous. In a calibrated profile, in deviations of good pictures."""

    name: str
    score: float = Field(description="S_P + alpha S_N + beta S_text")
    s_p: float = Field(description="against its own normal counterpart")
    s_n: float = Field(description="against the nearest normal patches")
    s_text: float = Field(description="against the text prompts")
    anomaly_map: list[list[float]] | None = Field(None, description="one value per patch, rows from the top")
    overlay: str | None = Field(
        None, description="PNG, base64: the picture, at most 1024 pixels a side, with its heat map"
    )
    counterpart: str | None = Field(None, description="PNG, base64: what it should have looked like")
    reference: str | None = Field(None, description="PNG, base64: the category's normal picture nearest to it")


class ScoreAnswer(BaseModel):
    """All pictures of a request, in its order, scored with one and the same version."""

    category: str
    version: str
    pictures: list[PictureScore]


class CategoryAnswer(BaseModel):
    """A category and what serves for it."""

    category: str
    version: str
    created: str
    references: int
    object_word: str
    profile: str
    weights: dict[str, float] = Field(description="what s_p, s_n and s_text count in the score")
    calibration: list[float] = Field(description="scores of good pictures, ascending: what decisions are made by")
    history: list[str] = Field(description="versions that served before, oldest first")


class ErrorBody(BaseModel):
    code: str
    message: str


class ErrorAnswer(BaseModel):
    """The one shape of every error."""

    error: ErrorBody
