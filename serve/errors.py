"""Every error over HTTP: one table of statuses, one shape. `/v2` has the shape of its own protocol."""

import logging
import math
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import ValidationError
from ray.exceptions import RayTaskError
from starlette.exceptions import HTTPException
from starlette.types import Scope

from o2n.errors import (
    CategoryError,
    ConflictError,
    DeadlineError,
    ForbiddenError,
    FoundationError,
    NotFoundError,
    O2NError,
    OverloadedError,
    PictureError,
    RequestError,
    StoreError,
    TooLargeError,
    TooSlowError,
    UnauthorizedError,
    UnavailableError,
)
from serve.limits import request_id
from serve.protocol import ErrorAnswer, ErrorBody

STATUS: dict[type[O2NError], int] = {
    PictureError: 400,
    CategoryError: 400,
    UnauthorizedError: 401,
    ForbiddenError: 403,
    NotFoundError: 404,
    TooSlowError: 408,
    ConflictError: 409,
    FoundationError: 409,
    TooLargeError: 413,
    RequestError: 422,
    OverloadedError: 429,
    StoreError: 503,
    UnavailableError: 503,
    DeadlineError: 503,
}
"""What is not here is a fault of the service: 500."""

RETRY_SECONDS = 1.0

logger = logging.getLogger("ray.serve")


def error_answer(
    scope: Scope, status: int, code: str, message: str, headers: dict[str, str] | None = None
) -> JSONResponse:
    """An error as the client gets it.

    Args: scope: the request's; code: what a program can tell errors apart by; message: one line for people.
    """
    scope.setdefault("state", {})["error_code"] = code  # `Observer` counts and logs it
    message = " ".join(message.split())  # paths and field names come from the client
    headers = dict(headers or {})
    if status in (429, 503):
        headers.setdefault("retry-after", str(math.ceil(RETRY_SECONDS)))
    body: Any = ErrorAnswer(error=ErrorBody(code=code, message=message, request_id=request_id(scope))).model_dump()
    if is_kserve(scope["path"]):
        body = {"error": message}
    return JSONResponse(body, status_code=status, headers=headers)


def answer_to(scope: Scope, error: O2NError) -> JSONResponse:
    """The answer to a request that ended in one of O2N's own errors."""
    status = next((STATUS[kind] for kind in type(error).__mro__ if kind in STATUS), 500)
    headers = {}
    if isinstance(error, UnauthorizedError):
        headers["www-authenticate"] = 'Bearer realm="o2n"'
    if isinstance(error, ForbiddenError):
        headers["www-authenticate"] = f'Bearer realm="o2n", error="insufficient_scope", scope="{error.scope}"'
    if isinstance(error, OverloadedError | UnavailableError):
        headers["retry-after"] = str(max(1, math.ceil(error.retry_after)))
    if isinstance(error, TooSlowError):
        headers["connection"] = "close"  # what the sender still drips is nobody's request
    return error_answer(scope, status, error.code, str(error), headers)


def is_kserve(path: str) -> bool:
    return path == "/v2" or path.startswith("/v2/")


def handle_errors(app: FastAPI) -> None:
    """Let every error of `app` leave in this shape."""

    @app.exception_handler(O2NError)
    async def on_o2n_error(request: Request, error: O2NError) -> JSONResponse:
        return answer_to(request.scope, error)

    @app.exception_handler(RayTaskError)
    async def on_branch_error(request: Request, error: RayTaskError) -> JSONResponse:
        if isinstance(error.cause, O2NError):
            return answer_to(request.scope, error.cause)
        return await on_unexpected(request, error)

    @app.exception_handler(ValidationError)
    async def on_validation_error(request: Request, error: ValidationError) -> JSONResponse:
        return _invalid(request, error.errors(include_input=False)[0])

    @app.exception_handler(RequestValidationError)
    async def on_request_validation_error(request: Request, error: RequestValidationError) -> JSONResponse:
        return _invalid(request, error.errors()[0])

    @app.exception_handler(HTTPException)
    async def on_http_error(request: Request, error: HTTPException) -> JSONResponse:
        code = HTTPStatus(error.status_code).phrase.lower().replace(" ", "_")
        # Not `request.url`, which is put together with the client's `host` and may be none.
        message = f"{request.method} {request.scope['path'][:200]}: {error.detail}: see /openapi.json for what there is"
        return error_answer(request.scope, error.status_code, code, message, dict(error.headers or {}))

    @app.exception_handler(Exception)
    async def on_unexpected(request: Request, error: Exception) -> JSONResponse:
        incident = request_id(request.scope)
        logger.exception("request %s: %s %s failed", incident, request.method, request.scope["path"], exc_info=error)
        message = f"the service failed at this request; its log has it under {incident}"
        return error_answer(request.scope, 500, "internal", message)


def _invalid(request: Request, first: Any) -> JSONResponse:
    where = ".".join(str(part) for part in first["loc"]) or "the body"
    return error_answer(request.scope, 422, "invalid_request", f"{where}: {first['msg']}")
