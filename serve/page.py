"""The inspection page at `/`: static files, the same for all. What it shows it asks of the API, as any client does."""

import hashlib
from pathlib import Path

from fastapi import APIRouter, HTTPException, Request
from fastapi.responses import Response

FOLDER = Path(__file__).with_name("page")

# Nothing is loaded from elsewhere, nothing inline runs, and no text can become markup: names of files are hostile.
POLICY = "; ".join(
    [
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' blob:",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    ]
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    # Asked for again each time and mostly answered with 304: a new release shows at once.
    "Cache-Control": "no-cache",
}
TYPES = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
}

router = APIRouter(include_in_schema=False)


@router.api_route("/", methods=["GET", "HEAD"])
def index(request: Request) -> Response:
    """The page itself."""
    return _file(request, "index.html")


@router.api_route("/page/{name}", methods=["GET", "HEAD"])
def asset(request: Request, name: str) -> Response:
    """What the page is made of: its script, its style, its icon."""
    return _file(request, name)


def _file(request: Request, name: str) -> Response:
    # Looked up among the files there are, so that no name leads out of the folder.
    path = next((path for path in FOLDER.iterdir() if path.name == name and path.suffix in TYPES), None)
    if path is None:
        raise HTTPException(404, "there is no such file")
    content = path.read_bytes()
    headers = HEADERS | {"ETag": f'"{hashlib.sha256(content).hexdigest()[:32]}"', "Content-Type": TYPES[path.suffix]}
    if headers["ETag"] in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=headers)
    return Response(content, headers=headers)
