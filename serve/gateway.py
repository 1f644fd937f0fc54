"""The HTTP ingress: checks what comes in, sends it through the branches, puts the answer together. No models here."""

import asyncio
import base64
import logging
import time
import uuid
from collections.abc import AsyncGenerator
from typing import Annotated

from fastapi import FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import ValidationError
from ray import serve
from ray.exceptions import RayTaskError
from ray.serve.handle import DeploymentHandle
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException, MultiPartParser

from o2n import __version__, images
from o2n.errors import (
    CategoryError,
    ConflictError,
    DeadlineError,
    FoundationError,
    NotFoundError,
    O2NError,
    OverloadedError,
    PictureError,
    StoreError,
)
from o2n.fusion import Score
from o2n.images import Picture
from o2n.profiles import Profile
from o2n.report import overlay
from o2n.store import CategoryStore
from serve.catalog import Catalog
from serve.page import router as page
from serve.protocol import (
    MAX_BODY_BYTES,
    MAX_PICTURES,
    CategoryAnswer,
    ErrorAnswer,
    ErrorBody,
    Include,
    PictureScore,
    ScoreAnswer,
    ScoreRequest,
)
from serve.scoring import Branches

OVERLAY_SIDE = 1024
# Pictures decoded at once by a replica: a few kilobytes can become 50 million pixels, and a request may have 64 such.
DECODERS = 2

STATUS = {
    PictureError: 400,
    CategoryError: 400,
    NotFoundError: 404,
    ConflictError: 409,
    FoundationError: 409,
    StoreError: 503,
    OverloadedError: 429,
    DeadlineError: 504,
}

logger = logging.getLogger("ray.serve")

app = FastAPI(
    title="O2N",
    version=__version__,
    summary="Few-shot visual anomaly scores for hundreds of categories",
    responses={status: {"model": ErrorAnswer} for status in (400, 404, 413, 422, 429, 500, 503, 504)},
)
app.include_router(page)


class TooLargeError(O2NError):
    """A request over the limits."""

    code = "too_large"


class Gateway:
    """One endpoint for every category of the store."""

    def __init__(
        self,
        profile: Profile,
        store: CategoryStore,
        encoder: DeploymentHandle,
        personalizer: DeploymentHandle,
        normal: DeploymentHandle,
        text: DeploymentHandle,
        deadline_seconds: float,
    ) -> None:
        self._profile = profile
        self._catalog = Catalog(store)
        self._decoders = asyncio.Semaphore(DECODERS)
        self._branches = Branches(profile, encoder, personalizer, normal, text)
        self._deadline_seconds = deadline_seconds

    @app.post(
        "/v1/categories/{name}/score",
        response_model=ScoreAnswer,
        response_model_exclude_none=True,
        openapi_extra={
            "requestBody": {
                "required": True,
                "content": {
                    "application/json": {"schema": ScoreRequest.model_json_schema()},
                    "multipart/form-data": {
                        "schema": {
                            "type": "object",
                            "properties": {
                                "pictures": {"type": "array", "items": {"type": "string", "format": "binary"}}
                            },
                            "required": ["pictures"],
                        }
                    },
                },
            }
        },
    )
    async def score(
        self,
        name: str,
        request: Request,
        include: Annotated[list[Include], Query(description="what to send beside the scores")] = [],  # noqa: B006
    ) -> ScoreAnswer:
        """Score one or more pictures with the version that serves now: all of them, or none and an error."""
        deadline = time.monotonic() + self._deadline_seconds
        ref = await self._catalog.current(name)
        uploads = await _read_pictures(request)
        pictures = await asyncio.gather(*(self._decode(data, picture_name) for picture_name, data in uploads))
        scores = await asyncio.gather(*(self._branches.score(query, ref, deadline) for query, _ in pictures))
        references: list[Picture | None] = [None] * len(pictures)
        if "reference" in include:
            references = await asyncio.gather(*(self._branches.reference(query, ref) for query, _ in pictures))
        answers = [
            await asyncio.to_thread(_answer, picture_name, picture, score, reference, include)
            for (picture_name, _), (_, picture), score, reference in zip(
                uploads, pictures, scores, references, strict=True
            )
        ]
        return ScoreAnswer(category=ref.category, version=ref.version, pictures=answers)

    async def _decode(self, data: bytes, name: str) -> tuple[Picture, Picture]:
        """The query at the model's size, and the picture to lay a heat map over."""

        def run() -> tuple[Picture, Picture]:
            picture = images.decode(data, name)
            return images.resize(picture, self._profile.diffusion.resolution), images.fit(picture, OVERLAY_SIDE)

        async with self._decoders:
            return await asyncio.to_thread(run)

    @app.get("/v1/categories")
    async def categories(self) -> list[CategoryAnswer]:
        """Every category and the version that serves for it."""
        names = await asyncio.to_thread(self._catalog.store.categories)
        return [await self._category(name) for name in names]

    @app.get("/v1/categories/{name}")
    async def category(self, name: str) -> CategoryAnswer:
        """One category and the version that serves for it."""
        return await self._category(name)

    async def _category(self, name: str) -> CategoryAnswer:
        manifest = await self._catalog.manifest(name)
        pointer = await asyncio.to_thread(self._catalog.store.pointer, name)
        return CategoryAnswer(
            category=name,
            version=manifest.version,
            created=manifest.created.isoformat(timespec="seconds"),
            references=len(manifest.reference_digests),
            object_word=manifest.object_word,
            profile=manifest.profile.name,
            history=pointer.history,
        )

    @app.get("/healthz")
    async def healthz(self) -> dict[str, str]:
        """This process answers."""
        return {"status": "ok"}

    @app.get("/readyz")
    async def readyz(self) -> JSONResponse:
        """Every branch has its models and the store can be read; 503 otherwise, naming what is missing."""
        ready = await self._branches.ready()
        try:
            await asyncio.to_thread(self._catalog.store.categories)
            ready["store"] = True
        except O2NError as error:
            logger.warning("not ready: %s", error)
            ready["store"] = False
        return JSONResponse(ready, status_code=200 if all(ready.values()) else 503)


async def _read_pictures(request: Request) -> list[tuple[str, bytes]]:
    """Names and bytes of a request's pictures; an oversize body is refused while it arrives."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "application/json":
        body = b"".join([chunk async for chunk in _limited(request)])
        pictures = ScoreRequest.model_validate_json(body).pictures
        return [(picture.name, picture.data) for picture in pictures]
    if kind == "multipart/form-data":
        parser = MultiPartParser(request.headers, _limited(request), max_files=MAX_PICTURES, max_fields=16)
        try:
            form = await parser.parse()
        except (MultiPartException, KeyError) as error:
            raise PictureError(f"the multipart body cannot be read ({error}): send files named 'pictures'") from None
        files = [item for item in form.getlist("pictures") if isinstance(item, UploadFile)]
        if not files:
            raise PictureError("the request has no pictures: send at least one file in the field 'pictures'")
        return [(file.filename or "picture", await file.read()) for file in files]
    raise PictureError(
        f"content type {kind or 'none'!r} is not understood: send multipart/form-data with files named 'pictures', "
        "or application/json"
    )


async def _limited(request: Request) -> AsyncGenerator[bytes, None]:
    size = 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > MAX_BODY_BYTES:
            raise TooLargeError(f"the body is over {MAX_BODY_BYTES >> 20} MiB: send fewer or smaller pictures")
        yield chunk


def _answer(
    name: str, picture: Picture, score: Score, reference: Picture | None, include: list[Include]
) -> PictureScore:
    return PictureScore(
        name=name,
        score=score.score,
        s_p=score.s_p,
        s_n=score.s_n,
        s_text=score.s_text,
        anomaly_map=score.anomaly_map.tolist() if "anomaly_map" in include else None,
        overlay=_png(overlay(picture, score.anomaly_map)) if "overlay" in include else None,
        counterpart=_png(score.counterpart) if "counterpart" in include else None,
        reference=_png(reference) if reference is not None else None,
    )


def _png(picture: Picture) -> str:
    return base64.b64encode(images.encode_png(picture)).decode()


def _error(status: int, code: str, message: str) -> JSONResponse:
    return JSONResponse(ErrorAnswer(error=ErrorBody(code=code, message=message)).model_dump(), status_code=status)


@app.exception_handler(O2NError)
async def _on_o2n_error(request: Request, error: O2NError) -> JSONResponse:
    status = 413 if isinstance(error, TooLargeError) else STATUS.get(type(error), 500)
    return _error(status, error.code, str(error))


@app.exception_handler(RayTaskError)
async def _on_branch_error(request: Request, error: RayTaskError) -> JSONResponse:
    if isinstance(error.cause, O2NError):
        return await _on_o2n_error(request, error.cause)
    return await _on_unexpected(request, error)


@app.exception_handler(ValidationError)
async def _on_validation_error(request: Request, error: ValidationError) -> JSONResponse:
    return _invalid(error.errors()[0])


@app.exception_handler(RequestValidationError)
async def _on_request_validation_error(request: Request, error: RequestValidationError) -> JSONResponse:
    return _invalid(error.errors()[0])


def _invalid(first: object) -> JSONResponse:
    where = ".".join(str(part) for part in first["loc"]) or "the body"  # type: ignore[index]
    return _error(422, "invalid_request", f"{where}: {first['msg']}")  # type: ignore[index]


@app.exception_handler(HTTPException)
async def _on_http_error(request: Request, error: HTTPException) -> JSONResponse:
    return _error(error.status_code, "http", f"{request.method} {request.url.path}: {error.detail}")


@app.exception_handler(Exception)
async def _on_unexpected(request: Request, error: Exception) -> JSONResponse:
    incident = uuid.uuid4().hex[:8]
    logger.exception("incident %s in %s %s", incident, request.method, request.url.path, exc_info=error)
    return _error(500, "internal", f"scoring failed inside the service; its log has incident {incident}")


# At the end of the file because it copies the app: what is not defined yet would be missing in the copy.
GatewayIngress = serve.ingress(app)(Gateway)
