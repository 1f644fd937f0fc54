"""The routes of O2N's own API, `/v1` and the two probes: thin, each one call into the service."""

import base64
from typing import Annotated, Any, get_args

from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import JSONResponse, PlainTextResponse
from pydantic import BaseModel

from o2n import images
from o2n.calibration import Rate
from o2n.category import Verdict, VersionId
from o2n.errors import RequestError
from o2n.images import Picture
from o2n.report import overlay
from o2n.tokens import Token
from serve import metrics
from serve.auth import needs
from serve.bodies import read_feedback, read_pictures, refuse_unknown
from serve.observer import note_scored
from serve.protocol import (
    CategoryAnswer,
    CategoryDetails,
    FeedbackAnswer,
    FeedbackRequest,
    Include,
    ListedFeedback,
    PictureScore,
    ScoreAnswer,
    ScoreRequest,
    VersionAnswer,
    responses,
)
from serve.service import Scored, Service, Upload


async def get_service(request: Request) -> Service:
    """The service behind the application that a request came to; a coroutine, or FastAPI gives it a thread."""
    service: Service = request.app.state.service
    return service


async def refuse_unknown_queries(request: Request) -> None:
    """FastAPI leaves out in silence what a route does not declare."""
    known = [parameter.alias for parameter in request.scope["route"].dependant.query_params]
    refuse_unknown("query parameter", request.query_params, known)


TheService = Annotated[Service, Depends(get_service)]
KnownQueries = Depends(refuse_unknown_queries)

router = APIRouter(prefix="/v1/categories", tags=["categories"])
probes = APIRouter(tags=["probes"])


def _body(model: type[BaseModel], form: dict[str, Any]) -> dict[str, Any]:
    """OpenAPI's description of a body that is JSON or a form; `gateway.REQUESTS` has the models."""
    form_schema = {"type": "object", "required": [name for name in form if name != "note"], "properties": form}
    content = {
        "application/json": {"schema": {"$ref": f"#/components/schemas/{model.__name__}"}},
        "multipart/form-data": {"schema": form_schema},
    }
    return {"requestBody": {"required": True, "content": content}}


_FILE = {"type": "string", "contentMediaType": "application/octet-stream"}


@router.post(
    "/{name}/score",
    dependencies=[needs("score"), KnownQueries],
    response_model_exclude_none=True,
    responses=responses(400, 401, 403, 404, 408, 409, 413, 422, 429, 500, 503),
    openapi_extra=_body(
        ScoreRequest, {"pictures": {"type": "array", "minItems": 1, "items": _FILE, "description": "files"}}
    ),
)
async def score(
    service: TheService,
    name: str,
    request: Request,
    include: Annotated[
        list[Include],
        Query(
            default_factory=list,
            description="what to send beside the scores; several are include=overlay&include=counterpart",
        ),
    ],
    false_positive_rate: Annotated[
        Rate | None, Query(description="share of normal pictures that may be called anomalous")
    ] = None,
) -> ScoreAnswer:
    """Score one or more pictures with the version that serves now: all of them, or none and an error."""
    ref = await service.catalog.current(name)
    uploads = await read_pictures(request)
    answers = await service.score(
        ref, uploads, lambda found: _answer(found, include), false_positive_rate, "reference" in include
    )
    note_scored(request, ref, len(answers))
    return ScoreAnswer(category=ref.category, version=ref.version, pictures=answers)


@router.post(
    "/{name}/feedback",
    dependencies=[needs("feedback"), KnownQueries],
    responses=responses(400, 401, 403, 404, 408, 409, 413, 422, 429, 500, 503),
    openapi_extra=_body(
        FeedbackRequest,
        {
            "picture": _FILE,
            "verdict": {"type": "string", "enum": list(get_args(Verdict))},
            "note": {"type": "string", "maxLength": 1024},
        },
    ),
)
async def give_feedback(
    service: TheService, name: str, request: Request, token: Annotated[Token, needs("feedback")]
) -> FeedbackAnswer:
    """An inspector's verdict on one picture.

    `normal` puts it into the bank and the calibration of a new version, which serves within a second or two;
    `anomalous` keeps it for evaluation, and takes it out of nothing; `withdrawn` takes one that is among the normal
    ones by mistake out of both, in another version, and leaves what else was fed back. The same verdict on the same
    picture again changes nothing.
    """
    await service.catalog.current(name)  # a category that is none is told before a body is read
    given = await read_feedback(request)
    upload = Upload(given.picture.name, given.picture.data)
    learned = await service.learn(name, upload, given.verdict, given.note, token.name)
    return FeedbackAnswer(
        category=learned.ref.category,
        version=learned.ref.version,
        verdict=given.verdict,
        by=token.name,
        counts_as_normal=learned.counts_as_normal,
    )


@router.get(
    "/{name}/feedback",
    dependencies=[needs("feedback")],
    responses=responses(400, 401, 403, 404, 422, 500, 503),
)
async def list_feedback(service: TheService, name: str) -> list[ListedFeedback]:
    """Every verdict that was given on pictures of a category, oldest first, and which of them hold."""
    return await service.feedback(name)


@router.post(
    "/{name}/rollback",
    dependencies=[needs("admin"), KnownQueries],
    responses=responses(400, 401, 403, 404, 408, 409, 413, 422, 500, 503),
)
async def rollback(
    service: TheService,
    name: str,
    request: Request,
    version: Annotated[
        VersionId | None, Query(description="the version to go back to; by default the one that served before")
    ] = None,
) -> VersionAnswer:
    """Let an earlier version serve again. Without a version it is a toggle: done twice, it undoes itself."""
    if await request.body():
        raise RequestError("a rollback takes no body: give the version to go back to as ?version=ID")
    ref = await service.rollback(name, version)
    return VersionAnswer(category=ref.category, version=ref.version)


@router.get("", dependencies=[needs("score")], responses=responses(401, 403, 422, 500, 503))
async def categories(service: TheService) -> list[CategoryAnswer]:
    """Every category and the version that serves for it."""
    return await service.categories()


@router.get("/{name}", dependencies=[needs("score")], responses=responses(400, 401, 403, 404, 422, 500, 503))
async def category(service: TheService, name: str) -> CategoryDetails:
    """One category, the version that serves for it, its calibration and its history."""
    return await service.category_details(name)


@probes.get("/healthz", responses={200: {"content": {"application/json": {"example": {"status": "ok"}}}}})
async def healthz() -> dict[str, str]:
    """This process answers."""
    return {"status": "ok"}


_READY = {"encoder": True, "personal": True, "normal": True, "text": True, "store": True}


@probes.get(
    "/readyz",
    response_model=dict[str, bool],
    responses={
        200: {"content": {"application/json": {"example": _READY}}},
        503: {"model": dict[str, bool], "content": {"application/json": {"example": _READY | {"text": False}}}},
    },
)
async def readyz(service: TheService) -> JSONResponse:
    """Every branch has its models and the store can be read; 503 otherwise, naming what is missing."""
    ready = await service.ready()
    whole = all(ready.values())
    return JSONResponse(ready, status_code=200 if whole else 503, headers=None if whole else {"retry-after": "1"})


@probes.get(
    "/metrics",
    dependencies=[needs("score")],
    response_class=PlainTextResponse,
    responses={
        200: {"content": {"text/plain": {"example": 'ray_o2n_requests_total{route="/readyz",status="200"} 3.0'}}},
        **responses(401, 403, 503),
    },
)
async def read_metrics() -> PlainTextResponse:
    """Metrics of O2N and of Ray Serve, of all nodes, in Prometheus' text format; some ten seconds old."""
    return PlainTextResponse(await metrics.exposition(), media_type="text/plain; version=0.0.4; charset=utf-8")


def _answer(scored: Scored, include: list[Include]) -> PictureScore:
    found, decision = scored.score, scored.decision
    return PictureScore(
        name=scored.name,
        **found.values(),
        **decision.values(),
        note=decision.note,
        anomaly_map=found.anomaly_map.tolist() if "anomaly_map" in include else None,
        overlay=_png(overlay(scored.picture, found.anomaly_map)) if "overlay" in include else None,
        counterpart=_png(found.counterpart) if "counterpart" in include else None,
        reference=_png(scored.reference) if scored.reference is not None else None,
    )


def _png(picture: Picture) -> str:
    return base64.b64encode(images.encode_png(picture)).decode()
