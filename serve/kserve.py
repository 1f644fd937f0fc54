"""The Open Inference Protocol, version 2 (KServe, Triton): a category is a model, and existing clients can score.

`tensors.py` has what they send and get.
"""

import asyncio
from typing import Annotated, Any

from fastapi import APIRouter, Header, Request
from fastapi.responses import Response
from pydantic import BaseModel, Field

from o2n import __version__
from o2n.category import VersionRef
from o2n.errors import NotFoundError
from serve.api import TheService
from serve.auth import needs
from serve.observer import note_scored
from serve.protocol import example
from serve.service import Service
from serve.tensors import DATATYPES, InferAnswer, read_request, write_answer

PLATFORM = "o2n"
HEADER_LENGTH = "inference-header-content-length"


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
    # Millions of pixels as numbers take a while to read, in which others want to be answered.
    asked, uploads = await asyncio.to_thread(read_request, body, length)
    scored = await service.score(ref, uploads, lambda found: found, asked.parameters.false_positive_rate)
    note_scored(request, ref, len(scored))
    answer, appendix = write_answer(ref, asked, scored)
    if not appendix:
        return Response(answer, media_type="application/json")
    headers = {HEADER_LENGTH: str(len(answer))}
    return Response(answer + appendix, media_type="application/octet-stream", headers=headers)


async def _pinned(service: Service, name: str, version: str | None) -> VersionRef:
    """The version that serves, or one that did."""
    ref = await service.catalog.current(name)
    if version in (None, ref.version):
        return ref
    if version not in (await service.category(name)).history:
        raise NotFoundError(f"category {name} never served version {version!r}: see /v2/models/{name}")
    return VersionRef(name, version)
