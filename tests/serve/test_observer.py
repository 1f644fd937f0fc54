"""One line per request, with what happened and nothing of what was sent."""

import asyncio
import logging

import httpx
import pytest
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse

from o2n.category import VersionRef
from serve.errors import error_answer
from serve.observer import Observer, note_scored

ROUTE = "/v1/categories/{name}/score"

app = FastAPI()
app.add_middleware(Observer)


@app.post(ROUTE)
async def score(name: str, request: Request) -> JSONResponse:
    if name == "nuts":
        return error_answer(request.scope, 404, "not_found", "no nuts")
    if name == "slow":
        await asyncio.sleep(60)
    if name == "broken":
        raise ZeroDivisionError
    note_scored(request, VersionRef(name, "v1"), pictures=2)
    return JSONResponse({"score": 1.0})


async def post(path: str) -> None:
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://o2n") as client:
        await client.post(path, content=b"picture bytes", headers={"Authorization": "Bearer secret-token"})


@pytest.mark.parametrize(
    ("path", "route", "fields"),
    [
        (
            "/v1/categories/bolts/score",
            ROUTE,
            {"status": 200, "code": "", "category": "bolts", "version": "v1", "pictures": 2},
        ),
        ("/v1/categories/nuts/score", ROUTE, {"status": 404, "code": "not_found"}),
        ("/v1/categories/broken/score", ROUTE, {"status": 500, "code": "internal"}),
        ("/made/up", "(none)", {"status": 404, "code": ""}),
    ],
)
def test_every_request_has_one_line(
    path: str, route: str, fields: dict[str, object], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, logger="ray.serve"):
        asyncio.run(post(path))
    (record,) = [record for record in caplog.records if record.name == "ray.serve"]
    assert fields.items() <= vars(record).items()
    assert record.milliseconds >= 0
    assert record.getMessage().startswith(f"POST {route} {fields['status']} ")
    assert "secret-token" not in str(vars(record))
    assert "picture bytes" not in str(vars(record))
    assert "made" not in str(vars(record).get("message"))


def test_a_client_that_does_not_wait_is_no_fault_of_the_service(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="ray.serve"), pytest.raises(TimeoutError):
        asyncio.run(asyncio.wait_for(post("/v1/categories/slow/score"), 0.5))
    (record,) = [record for record in caplog.records if record.name == "ray.serve"]
    assert (record.status, record.code) == (499, "client_gone")
