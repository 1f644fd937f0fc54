"""A small client of the HTTP service. Needs neither Ray nor models.

    with Client("http://o2n.plant:8000", token) as client:
        (found,) = client.score("bolts", ["new.png"])
        if found.is_anomalous: …

What a moment's patience cures is tried again: a service that is busy, a connection that was lost. Scoring has no side
effect, and the same feedback on the same picture is taken once, if nobody has said otherwise in between.
"""

import random
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, TypeVar, get_args

import httpx
from pydantic import AwareDatetime, BaseModel, TypeAdapter, ValidationError

from o2n import errors, images
from o2n.category import Verdict, check_name
from o2n.errors import O2NError, OverloadedError, RequestError, UnavailableError, cause_of

ATTEMPTS = 6
TIMEOUT_SECONDS = 60.0
MAX_PAUSE_SECONDS = 30.0
# What one request may hold, so that any number of pictures can be given.
REQUEST_PICTURES = 16
REQUEST_BYTES = 32 << 20

Picture = Path | str | bytes  # a file's path, or the bytes of one
Include = Literal["anomaly_map", "overlay", "counterpart", "reference"]
INCLUDES: tuple[Include, ...] = get_args(Include)

Answer = TypeVar("Answer")

_BY_CODE: dict[str, type[O2NError]] = {
    kind.code: kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, O2NError)
}


class ServiceError(O2NError):
    """A service that cannot be reached, or answers in no way that this client knows."""

    code = "service"


class Scored(BaseModel):
    """One picture's answer; see the service's API for the fields. Pictures in it are PNG files in base64."""

    name: str
    score: float
    s_p: float
    s_n: float
    s_text: float
    p_value: float
    threshold: float
    is_anomalous: bool
    false_positive_rate: float
    version: str
    note: str | None = None
    anomaly_map: list[list[float]] | None = None
    overlay: str | None = None
    counterpart: str | None = None
    reference: str | None = None


class _ScoreAnswer(BaseModel):
    version: str
    pictures: list[dict[str, Any]]


class Category(BaseModel):
    """A category and what serves for it."""

    category: str
    version: str
    created: AwareDatetime
    references: int
    object_word: str
    profile: str
    history: list[str]
    refused: str | None = None


class Version(BaseModel):
    """The version of a category that serves."""

    category: str
    version: str


class Client:
    """A service at a URL. Safe to use from several threads."""

    def __init__(self, url: str, token: str | None = None, *, timeout: float = TIMEOUT_SECONDS) -> None:
        """Args: token: made by `o2n tokens create`; timeout: seconds that one attempt may take.

        Raises:
            RequestError: a URL or a token that cannot be one.
        """
        if token is not None and not (token.isascii() and token.isprintable()):
            raise RequestError("the token has characters that no token has: give it as 'o2n tokens create' printed it")
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        try:
            if httpx.URL(url).scheme not in ("http", "https") or not httpx.URL(url).host:
                raise httpx.InvalidURL("it is not http or https, or names no host")
            self._http = httpx.Client(base_url=url, headers=headers, timeout=timeout)
        except httpx.InvalidURL as error:
            raise RequestError(f"service URL {url!r} is refused ({error}): give one like http://host:8000") from None

    def __enter__(self) -> "Client":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Give up the connections."""
        self._http.close()

    def score(
        self,
        category: str,
        pictures: Picture | Sequence[Picture],
        *,
        include: Sequence[Include] = (),
        false_positive_rate: float | None = None,
    ) -> list[Scored]:
        """Score pictures with the version that serves now, in requests of a size that the service takes.

        Args: pictures: several, or one. false_positive_rate: what to decide at; by default the service's own.

        Raises:
            PictureError: a picture that cannot be read or is refused.
            UnauthorizedError, ForbiddenError, NotFoundError, OverloadedError, …: what the service says.
            ServiceError: it cannot be reached.
        """
        query: dict[str, Any] = {"include": list(include)}
        if false_positive_rate is not None:
            query["false_positive_rate"] = false_positive_rate
        scored: list[Scored] = []
        for files in _in_requests([pictures] if isinstance(pictures, Picture) else pictures):
            body = self._ask(
                "POST",
                f"/v1/categories/{check_name(category)}/score",
                params=query,
                files=[("pictures", f) for f in files],
            )
            found = _parse(_ScoreAnswer, body)
            scored += _parse(list[Scored], [{**picture, "version": found.version} for picture in found.pictures])
        return scored

    def feedback(self, category: str, picture: Picture, verdict: Verdict, note: str | None = None) -> Version:
        """Say what a picture is, or withdraw that it is normal; returns the version that serves after that.

        Raises as `score`.
        """
        data = {"verdict": verdict} | ({"note": note} if note else {})
        path = f"/v1/categories/{check_name(category)}/feedback"
        return _parse(Version, self._ask("POST", path, data=data, files={"picture": _file(picture, 0)}))

    def rollback(self, category: str, version: str | None = None) -> Version:
        """Let an earlier version serve again. Without a version it is not tried again where the answer was lost."""
        query = {"version": version} if version else {}
        path = f"/v1/categories/{check_name(category)}/rollback"
        return _parse(Version, self._ask("POST", path, repeatable=version is not None, params=query))

    def category(self, name: str) -> Category:
        """One category and the version that serves for it."""
        return _parse(Category, self._ask("GET", f"/v1/categories/{check_name(name)}"))

    def categories(self) -> list[Category]:
        """Every category that the service has."""
        return _parse(list[Category], self._ask("GET", "/v1/categories"))

    def _ask(self, method: str, path: str, *, repeatable: bool = True, **request: Any) -> Any:
        """The JSON of an answer, after as many attempts as it takes."""
        for attempt in range(ATTEMPTS):
            last = attempt == ATTEMPTS - 1
            pause = random.uniform(0.5, 1.0) * 0.25 * 2**attempt  # jitter: many clients fail at the same moment
            try:
                answer = self._http.request(method, path, **request)
            except httpx.TransportError as error:
                # A connection that was never made has done nothing, whatever was asked.
                again = repeatable or isinstance(error, httpx.ConnectError)
                if last or not again:
                    raise ServiceError(
                        f"service {self._http.base_url} cannot be reached ({error or type(error).__name__}): "
                        "check the URL, and that it runs"
                    ) from None
            else:
                if answer.is_success:
                    return _json(answer)
                # What was refused has done nothing; of what failed midway nobody knows.
                again = answer.status_code == 429 or (answer.status_code == 503 and repeatable)
                if last or not again:
                    raise _error(answer)
                pause = max(pause, min(_retry_after(answer), MAX_PAUSE_SECONDS))
            time.sleep(pause)
        raise AssertionError


def _error(answer: httpx.Response) -> O2NError:
    """The service's own error, as it would be raised in process."""
    try:
        said = answer.json()["error"]
        code, message = str(said["code"]), str(said["message"])
    except (ValueError, KeyError, TypeError):
        return ServiceError(
            f"{answer.url} answered {answer.status_code} {answer.reason_phrase}, as no O2N service does: check the URL"
        )
    kind = _BY_CODE.get(code, ServiceError)
    if issubclass(kind, OverloadedError | UnavailableError):
        return kind(message, _retry_after(answer))
    return kind(message)


def _retry_after(answer: httpx.Response) -> float:
    value = answer.headers.get("retry-after", "")
    return float(value) if value.isascii() and value.isdecimal() else 0.0


def _json(answer: httpx.Response) -> Any:
    try:
        return answer.json()
    except ValueError:
        raise ServiceError(f"{answer.url} answered something else than JSON: check the URL") from None


def _parse(kind: type[Answer], body: Any) -> Answer:
    try:
        return TypeAdapter(kind).validate_python(body)
    except ValidationError as error:
        raise ServiceError(
            f"the service's answer is none that this client knows ({cause_of(error)}): use its release of O2N"
        ) from None


def _in_requests(pictures: Sequence[Picture]) -> Iterator[list[tuple[str, bytes]]]:
    """Names and bytes, in portions that one request may hold; files are read as it comes to them."""
    portion: list[tuple[str, bytes]] = []
    size = 0
    for index, picture in enumerate(pictures):
        name, data = _file(picture, index)
        if portion and (len(portion) == REQUEST_PICTURES or size + len(data) > REQUEST_BYTES):
            yield portion
            portion, size = [], 0
        portion.append((name, data))
        size += len(data)
    if portion:
        yield portion


def _file(picture: Picture, index: int) -> tuple[str, bytes]:
    if isinstance(picture, bytes):
        return f"picture {index + 1}", picture
    name = str(picture).encode("utf-8", "replace").decode()  # old file systems have names that are none
    return name, images.read_bytes(Path(picture))
