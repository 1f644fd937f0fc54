"""The Open Inference Protocol, version 2 (KServe, Triton): a category is a model, and existing clients can score.

One input, in one of two forms: `picture`, BYTES [N], files of N pictures; or `pixels`, UINT8 [N, H, W, 3], RGB.
Outputs: pred_score FP64 [N], pred_label BOOL [N] (true is anomalous), p_value FP64 [N], anomaly_map FP32 [N, g, g].
In JSON, elements of BYTES are base64; with the protocol's binary extension they are the bytes themselves.
"""

import asyncio
import base64
import binascii
import math
from collections.abc import Sequence
from typing import Annotated, Any, Literal

import numpy as np
from fastapi import APIRouter, Header, Request
from fastapi.responses import Response
from numpy.typing import NDArray
from pydantic import BaseModel, Field

from o2n import __version__, images
from o2n.calibration import Rate
from o2n.category import VersionRef
from o2n.errors import NotFoundError, RequestError
from o2n.images import Picture
from serve.api import TheService
from serve.auth import needs
from serve.limits import check_json
from serve.observer import note_scored
from serve.protocol import MAX_PICTURES, PNG, example
from serve.service import Scored, Service, Upload

PLATFORM = "o2n"
HEADER_LENGTH = "inference-header-content-length"
# Of JSON: a picture of 400 × 400 as numbers. Of files in base64, and of binary data, only the bytes are limited.
MAX_VALUES = 1 << 19

OutputName = Literal["pred_score", "pred_label", "p_value", "anomaly_map"]
DATATYPES: dict[OutputName, tuple[str, str]] = {
    "pred_score": ("FP64", "<f8"),
    "pred_label": ("BOOL", "?"),
    "p_value": ("FP64", "<f8"),
    "anomaly_map": ("FP32", "<f4"),
}

_EXAMPLE: dict[str, Any] = {
    "id": "42",
    "inputs": [{"name": "picture", "shape": [1], "datatype": "BYTES", "data": [PNG]}],
    "outputs": [{"name": "pred_score"}, {"name": "pred_label"}],
}


class Parameters(BaseModel):
    """What O2N takes of a request's parameters; others are allowed by the protocol and mean nothing here."""

    false_positive_rate: Rate | None = None
    binary_data_output: bool = False


class InputParameters(BaseModel):
    """Of a tensor's."""

    binary_data_size: int | None = Field(None, ge=0)


class OutputParameters(BaseModel):
    """Of an output's."""

    binary_data: bool | None = None


class InputTensor(BaseModel):
    """Pictures, as files or as pixels."""

    name: str = Field(max_length=512, description="any; `picture` and `pixels` are what the metadata say")
    shape: list[Annotated[int, Field(ge=0, le=1 << 31)]] = Field(min_length=1, max_length=4)
    datatype: Literal["BYTES", "UINT8"]
    parameters: InputParameters = InputParameters()
    data: list[Any] | None = Field(None, description="flat or nested; absent if binary")


class OutputRequest(BaseModel):
    """An output that is wanted."""

    name: OutputName
    parameters: OutputParameters = OutputParameters()


class InferRequest(BaseModel):
    """One inference."""

    model_config = example(**_EXAMPLE)

    id: str | None = Field(None, max_length=256)
    parameters: Parameters = Parameters()
    inputs: list[InputTensor] = Field(min_length=1, max_length=1)
    outputs: list[OutputRequest] | None = Field(None, description="by default all, which the map makes long")


class OutputTensor(BaseModel):
    """One output of all pictures."""

    name: OutputName
    shape: list[int]
    datatype: str
    parameters: dict[str, int] | None = None
    data: list[float] | list[bool] | None = None


class InferAnswer(BaseModel):
    """What became of one inference."""

    model_config = example(
        model_name="bolts",
        model_version="7d206324509daeec",
        id="42",
        outputs=[{"name": "pred_score", "shape": [1], "datatype": "FP64", "data": [87.34]}],
    )

    model_name: str
    model_version: str
    id: str | None = None
    outputs: list[OutputTensor]


class TensorMetadata(BaseModel):
    """Name, type and shape of a tensor; -1 is any size."""

    name: str
    datatype: str
    shape: list[int]


class ModelMetadata(BaseModel):
    """A category as a model."""

    model_config = example(
        name="bolts",
        versions=["7d206324509daeec", "0b6f1f5de0f1a2c3"],
        platform=PLATFORM,
        inputs=[{"name": "picture", "datatype": "BYTES", "shape": [-1]}],
        outputs=[{"name": "pred_score", "datatype": "FP64", "shape": [-1]}],
    )

    name: str
    versions: list[str] = Field(description="the one that serves, then those that did")
    platform: str
    inputs: list[TensorMetadata]
    outputs: list[TensorMetadata]


class ServerMetadata(BaseModel):
    """This server."""

    model_config = example(name="o2n", version=__version__, extensions=["binary_tensor_data"])

    name: str
    version: str
    extensions: list[str]


class Live(BaseModel):
    """The process answers."""

    model_config = example(live=True)

    live: bool


class Ready(BaseModel):
    """Inference is possible."""

    model_config = example(ready=True)

    ready: bool


class ModelReady(BaseModel):
    """Inference with a model is possible."""

    model_config = example(name="bolts", ready=True)

    name: str
    ready: bool


class ProtocolError(BaseModel):
    """The protocol's own shape of an error."""

    error: str


def _errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    example = {"error": "category bolts is not in store s3://plant: see 'o2n categories list', or onboard it"}
    return {
        status: {"model": ProtocolError, "content": {"application/json": {"example": example}}} for status in statuses
    }


router = APIRouter(prefix="/v2", tags=["Open Inference Protocol v2"])
scoring = [needs("score")]


@router.get("", dependencies=scoring, responses=_errors(401, 403, 503))
async def server_metadata() -> ServerMetadata:
    """This server."""
    return ServerMetadata(name="o2n", version=__version__, extensions=["binary_tensor_data"])


@router.get("/health/live", dependencies=scoring, responses=_errors(401, 403, 503))
async def live() -> Live:
    """The process answers."""
    return Live(live=True)


@router.get("/health/ready", dependencies=scoring, responses=_errors(401, 403, 503))
async def ready(service: TheService, response: Response) -> Ready:
    """Every branch has its models and the store can be read; 503 otherwise."""
    whole = all((await service.ready()).values())
    response.status_code = 200 if whole else 503
    return Ready(ready=whole)


@router.get("/models/{name}", dependencies=scoring, responses=_errors(400, 401, 403, 404, 422, 500, 503))
@router.get(
    "/models/{name}/versions/{version}",
    dependencies=scoring,
    responses=_errors(400, 401, 403, 404, 422, 500, 503),
)
async def model_metadata(service: TheService, name: str, version: str | None = None) -> ModelMetadata:
    """A category: its versions, what it takes and what it gives."""
    await _pinned(service, name, version)
    found = await service.category(name)
    return ModelMetadata(
        name=name,
        versions=[found.version, *reversed(found.history)],
        platform=PLATFORM,
        inputs=[
            TensorMetadata(name="picture", datatype="BYTES", shape=[-1]),
            TensorMetadata(name="pixels", datatype="UINT8", shape=[-1, -1, -1, 3]),
        ],
        outputs=[
            TensorMetadata(name=output, datatype=kind, shape=[-1, -1, -1] if output == "anomaly_map" else [-1])
            for output, (kind, _) in DATATYPES.items()
        ],
    )


@router.get("/models/{name}/ready", dependencies=scoring, responses=_errors(400, 401, 403, 404, 422, 500, 503))
@router.get(
    "/models/{name}/versions/{version}/ready",
    dependencies=scoring,
    responses=_errors(400, 401, 403, 404, 422, 500, 503),
)
async def model_ready(service: TheService, name: str, response: Response, version: str | None = None) -> ModelReady:
    """Whether a category can be scored now."""
    await _pinned(service, name, version)
    whole = all((await service.ready()).values())
    response.status_code = 200 if whole else 503
    return ModelReady(name=name, ready=whole)


_INFER: dict[str, Any] = {
    "dependencies": scoring,
    "response_model": InferAnswer,
    "responses": _errors(400, 401, 403, 404, 408, 409, 413, 422, 429, 500, 503),
    "openapi_extra": {
        "requestBody": {
            "required": True,
            "content": {
                "application/json": {"schema": {"$ref": "#/components/schemas/InferRequest"}},
                "application/octet-stream": {
                    "schema": {"type": "string", "contentMediaType": "application/octet-stream"}
                },
            },
        }
    },
}


@router.post("/models/{name}/infer", **_INFER)
@router.post("/models/{name}/versions/{version}/infer", **_INFER)
async def infer(
    service: TheService,
    name: str,
    request: Request,
    version: str | None = None,
    header_length: Annotated[
        int | None,
        Header(alias=HEADER_LENGTH, ge=0, description="bytes of JSON before the binary data, where there are any"),
    ] = None,
) -> Response:
    """Score the pictures of one tensor."""
    ref = await _pinned(service, name, version)
    body = await request.body()
    length = len(body) if header_length is None else header_length

    def read() -> tuple[InferRequest, list[Upload]]:
        check_json(body[:length], MAX_VALUES, "send the tensor as binary data, or pictures as files")
        asked = InferRequest.model_validate_json(body[:length])
        return asked, _uploads(asked.inputs[0], body[length:])

    # Millions of pixels as numbers take a while to read, in which others want to be answered.
    asked, uploads = await asyncio.to_thread(read)
    scored = await service.score(ref, uploads, lambda found: found, asked.parameters.false_positive_rate)
    note_scored(request, ref, len(scored))
    return _answer(ref, asked, scored)


async def _pinned(service: Service, name: str, version: str | None) -> VersionRef:
    """The version that serves, or one that did."""
    ref = await service.catalog.current(name)
    if version in (None, ref.version):
        return ref
    if version not in (await service.category(name)).history:
        raise NotFoundError(f"category {name} never served version {version!r}: see /v2/models/{name}")
    return VersionRef(name, version)


def _uploads(tensor: InputTensor, binary: bytes) -> list[Upload]:
    """The pictures of a tensor.

    Raises:
        RequestError: shape, type and data do not fit together.
    """
    count = tensor.shape[0]
    if not 1 <= count <= MAX_PICTURES:
        raise RequestError(f"input {tensor.name}: {count} pictures: send 1 to {MAX_PICTURES}")
    size = tensor.parameters.binary_data_size
    if (size is None) == (tensor.data is None):
        raise RequestError(
            f"input {tensor.name}: send either data or binary data of which binary_data_size is the size"
        )
    if size is not None and size != len(binary):
        raise RequestError(f"input {tensor.name}: {size} bytes of binary data are announced, {len(binary)} came")
    raw: list[Any] | bytes = binary if tensor.data is None else tensor.data
    pictures: Sequence[bytes | Picture] = _files(tensor, raw) if tensor.datatype == "BYTES" else _pixels(tensor, raw)
    return [Upload(f"{tensor.name}[{index}]", picture) for index, picture in enumerate(pictures)]


def _files(tensor: InputTensor, raw: list[Any] | bytes) -> list[bytes]:
    if math.prod(tensor.shape) != tensor.shape[0]:
        raise RequestError(
            f"input {tensor.name}: BYTES has one file a picture, so its shape is [N], not {tensor.shape}"
        )
    files = _elements(tensor, raw) if isinstance(raw, bytes) else _flat(raw)
    if len(files) != tensor.shape[0]:
        raise RequestError(f"input {tensor.name}: its data are not {tensor.shape[0]} files, as its shape announces")
    return files if isinstance(raw, bytes) else [_decoded(tensor, text) for text in files]


def _elements(tensor: InputTensor, raw: bytes) -> list[bytes]:
    """BYTES in the binary extension: each element's length in 4 bytes, little-endian, then the element. At most one
    more than its shape announces."""
    elements: list[bytes] = []
    start = 0
    while start < len(raw) and len(elements) <= tensor.shape[0]:
        end = start + 4 + int.from_bytes(raw[start : start + 4], "little")
        if start + 4 > len(raw) or end > len(raw):
            raise RequestError(f"input {tensor.name}: its binary data end within element {len(elements)}")
        elements.append(raw[start + 4 : end])
        start = end
    return elements


def _decoded(tensor: InputTensor, text: Any) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError, TypeError):
        raise RequestError(f"input {tensor.name}: an element is not base64: send files that way") from None


def _flat(values: list[Any]) -> list[Any]:
    return values if not any(isinstance(value, list) for value in values) else [v for row in values for v in _row(row)]


def _row(row: Any) -> list[Any]:
    return row if isinstance(row, list) else [row]


def _pixels(tensor: InputTensor, raw: list[Any] | bytes) -> list[Picture]:
    if len(tensor.shape) != 4 or tensor.shape[3] != 3:
        raise RequestError(f"input {tensor.name}: UINT8 has shape [N, H, W, 3], not {tensor.shape}")
    try:
        values = np.frombuffer(raw, np.uint8) if isinstance(raw, bytes) else _bytes(raw, math.prod(tensor.shape))
        pixels = values.reshape(tensor.shape)
    except (ValueError, TypeError, OverflowError):
        raise RequestError(
            f"input {tensor.name}: its data are not whole numbers 0-255 of shape {tensor.shape}"
        ) from None
    for picture in pixels:
        images.check_size(picture.shape[1], picture.shape[0], tensor.name)
    return list(pixels)


def _bytes(values: list[Any], count: int) -> Picture:
    """`count` of them, flat or nested."""
    nested = bool(values) and isinstance(values[0], list)
    if not nested and len(values) != count:
        raise ValueError
    found = np.asarray(values)
    if found.dtype.kind not in "iu" or found.min() < 0 or found.max() > 255:
        raise ValueError
    return found.astype(np.uint8)


def _answer(ref: VersionRef, asked: InferRequest, scored: list[Scored]) -> Response:
    """The outputs that were asked for; those that are wanted as binary data follow the JSON in their order."""
    values: dict[OutputName, NDArray[Any]] = {
        "pred_score": np.array([found.score.score for found in scored]),
        "pred_label": np.array([found.decision.is_anomalous for found in scored]),
        "p_value": np.array([found.decision.p_value for found in scored]),
        "anomaly_map": np.stack([found.score.anomaly_map for found in scored]),
    }
    wanted = asked.outputs or [OutputRequest(name=name) for name in DATATYPES]
    tensors, appendix = [], b""
    for output in wanted:
        datatype, dtype = DATATYPES[output.name]
        array = values[output.name].astype(dtype)
        tensor = OutputTensor(name=output.name, shape=list(array.shape), datatype=datatype)
        binary = output.parameters.binary_data
        if binary or (binary is None and asked.parameters.binary_data_output):
            tensor.parameters = {"binary_data_size": array.nbytes}
            appendix += array.tobytes()
        else:
            tensor.data = array.ravel().tolist()
        tensors.append(tensor)
    answer = InferAnswer(model_name=ref.category, model_version=ref.version, id=asked.id, outputs=tensors)
    body = answer.model_dump_json(exclude_none=True).encode()
    if not appendix:
        return Response(body, media_type="application/json")
    return Response(body + appendix, media_type="application/octet-stream", headers={HEADER_LENGTH: str(len(body))})
