"""Tensors of the Open Inference Protocol, version 2: a request's body -> pictures, scores -> an answer's body.

One input, in one of two forms: `picture`, BYTES [N], files of N pictures; or `pixels`, UINT8 [N, H, W, 3], RGB.
Outputs: pred_score FP64 [N], pred_label BOOL [N] (true is anomalous), p_value FP64 [N], anomaly_map FP32 [N, g, g].
In JSON, elements of BYTES are base64; with the protocol's binary extension they are the bytes themselves.
"""

import base64
import binascii
import math
from collections.abc import Sequence
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, Field

from o2n import images
from o2n.calibration import Rate
from o2n.category import VersionRef
from o2n.errors import RequestError
from o2n.images import Picture
from serve.limits import check_json
from serve.protocol import MAX_PICTURES, PNG, example
from serve.service import Scored, Upload

# Of JSON: a picture of 400 × 400 as numbers. Of files in base64, and of binary data, only the bytes are limited.
MAX_VALUES = 1 << 19

OutputName = Literal["pred_score", "pred_label", "p_value", "anomaly_map"]
DATATYPES: dict[OutputName, tuple[str, str]] = {
    "pred_score": ("FP64", "<f8"),
    "pred_label": ("BOOL", "?"),
    "p_value": ("FP64", "<f8"),
    "anomaly_map": ("FP32", "<f4"),
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

    model_config = example(
        id="42",
        inputs=[{"name": "picture", "shape": [1], "datatype": "BYTES", "data": [PNG]}],
        outputs=[{"name": "pred_score"}, {"name": "pred_label"}],
    )

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


def read_request(body: bytes, length: int) -> tuple[InferRequest, list[Upload]]:
    """What a request asks for, and its pictures.

    Args: length: of the JSON that `body` begins with; binary data follow.

    Raises:
        TooLargeError: more than `MAX_VALUES` values in the JSON.
        ValidationError: JSON that is no `InferRequest`.
        RequestError: shape, type and data of the tensor do not fit together.
        PictureError: pixels of a size that no picture may have.
    """
    check_json(body[:length], MAX_VALUES, "send the tensor as binary data, or pictures as files")
    asked = InferRequest.model_validate_json(body[:length])
    return asked, _uploads(asked.inputs[0], body[length:])


def write_answer(ref: VersionRef, asked: InferRequest, scored: Sequence[Scored]) -> tuple[bytes, bytes]:
    """The outputs that were asked for, of every picture, as the body of an answer.

    Returns: JSON, and the outputs that are wanted as binary data, in their order; empty where there are none.
    """
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
    return answer.model_dump_json(exclude_none=True).encode(), appendix


def _uploads(tensor: InputTensor, binary: bytes) -> list[Upload]:
    """The pictures of a tensor."""
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
    return [value for row in values for value in (row if isinstance(row, list) else [row])]


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
