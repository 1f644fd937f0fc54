"""Bodies of requests -> pictures and verdicts, from multipart forms or JSON. What nobody would read is refused."""

from collections.abc import Collection, Iterable

from fastapi import Request
from starlette.datastructures import FormData, UploadFile
from starlette.formparsers import MultiPartParser

from o2n.errors import O2NError, PictureError, RequestError
from serve.limits import check_json
from serve.protocol import MAX_PICTURES, FeedbackRequest, PictureIn, ScoreRequest
from serve.service import Upload

MAX_FIELDS = 16
# Of JSON: far more than its fields, for there may be commas in names and notes, too.
MAX_VALUES = 1 << 16


async def read_pictures(request: Request) -> list[Upload]:
    """The pictures of a score request.

    Raises:
        PictureError: there are none, or the form cannot be read.
        RequestError: another content type, or a field that is unknown.
        ValidationError: JSON that is no `ScoreRequest`.
        TooLargeError, TooSlowError: see `limits.limited` and `limits.check_json`.
    """
    if _content_type(request, "pictures") == "application/json":
        body = ScoreRequest.model_validate_json(await _json(request))
        return [Upload(picture.name, picture.data) for picture in body.pictures]
    form = await _form(request, "pictures")
    given = form.getlist("pictures")
    files = [item for item in given if isinstance(item, UploadFile)]
    if files and len(files) < len(given):
        raise RequestError("a field 'pictures' has text in it and no file: send files in all of them")
    if not files:
        raise PictureError("the request has no pictures: send at least one file in the field 'pictures'")
    refuse_unknown("form field", form, ["pictures"])
    return [Upload(file.filename or "picture", await file.read()) for file in files]


async def read_feedback(request: Request) -> FeedbackRequest:
    """An inspector's verdict; raises as `read_pictures`."""
    if _content_type(request, "picture") == "application/json":
        return FeedbackRequest.model_validate_json(await _json(request))
    form = await _form(request, "picture")
    for name in form:
        if len(form.getlist(name)) > 1:
            raise RequestError(f"form field {name[:64]!r} is sent more than once: a verdict is on one picture")
    file, verdict, note = form.get("picture"), form.get("verdict"), form.get("note")
    if not isinstance(file, UploadFile):
        raise PictureError("the request has no picture: send one file in the field 'picture'")
    refuse_unknown("form field", form, FeedbackRequest.model_fields)
    # Fields that are files instead of text are for pydantic to refuse.
    picture = PictureIn.model_construct(name=file.filename or "picture", data=await file.read())
    return FeedbackRequest.model_validate({"picture": picture, "verdict": verdict, "note": note or None})


def refuse_unknown(what: str, given: Iterable[str], known: Collection[str]) -> None:
    """Else a misspelt name would be left out in silence, and the answer be another than was asked for.

    Args: what: the kind of names these are. Raises: RequestError.
    """
    for name in given:
        if name not in known:
            raise RequestError(f"{what} {name[:64]!r} is unknown: this request takes {', '.join(known) or 'none'}")


def _content_type(request: Request, field: str) -> str:
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind not in ("application/json", "multipart/form-data"):
        raise RequestError(
            f"content type {kind[:64] or 'none'!r} is not understood: send multipart/form-data with '{field}', "
            "or application/json"
        )
    return kind


async def _json(request: Request) -> bytes:
    body = await request.body()
    check_json(body, MAX_VALUES, "send multipart/form-data")
    return body


async def _form(request: Request, field: str) -> FormData:
    parser = MultiPartParser(request.headers, request.stream(), max_files=MAX_PICTURES, max_fields=MAX_FIELDS)
    try:
        return await parser.parse()
    except O2NError:
        raise
    except Exception as error:  # on malformed forms the parser raises KeyErrors, LookupErrors, its own kind and more
        raise PictureError(f"the multipart body cannot be read ({error}): send files in '{field}'") from None
