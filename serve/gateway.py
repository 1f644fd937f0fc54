"""The HTTP ingress: the routes put together into one application, and the deployment that runs it. No models here."""

from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema
from ray import serve
from ray.serve.handle import DeploymentHandle
from starlette.types import ASGIApp

from o2n import __version__
from o2n.profiles import Profile
from o2n.store import CategoryStore
from serve import api, kserve, page
from serve.auth import Doorkeeper
from serve.errors import handle_errors
from serve.limits import Limits
from serve.observer import Observer
from serve.protocol import FeedbackRequest, ScoreRequest
from serve.scoring import Branches
from serve.service import Service
from serve.tensors import InferRequest

DESCRIPTION = """
Two to eight pictures of good parts make a category; any new picture of it gets a score, a decision and a map.

Every route but the probes and the page takes a bearer token, whose scope it names: `score`, `feedback` or `admin`.
Every error has one shape, and every answer the header `x-request-id`. Pictures are sent as bytes, never as a URL.
"""


# Bodies are read by hand, form or JSON, so FastAPI does not know their models by itself.
REQUESTS: tuple[type[BaseModel], ...] = (ScoreRequest, FeedbackRequest, InferRequest)


class Application(FastAPI):
    """FastAPI with the models of request bodies among its OpenAPI components."""

    def openapi(self) -> dict[str, Any]:
        if self.openapi_schema is None:
            described = super().openapi()
            _, models = models_json_schema(
                [(model, "validation") for model in REQUESTS], ref_template="#/components/schemas/{model}"
            )
            described["components"]["schemas"] |= models["$defs"]
        return super().openapi()


def create_app(service: Service, doorkeeper: Doorkeeper) -> FastAPI:
    """The application: what it answers is `service`'s, whom it answers is the doorkeeper's to say."""
    app = Application(
        title="O2N",
        version=__version__,
        summary="Few-shot visual anomaly scores for hundreds of categories",
        description=DESCRIPTION,
        redirect_slashes=False,  # a path that is almost one of these is an error like any other
        # FastAPI's pages load their scripts from the internet, and are blank without it; /openapi.json says the same.
        docs_url=None,
        redoc_url=None,
    )
    app.state.service, app.state.doorkeeper = service, doorkeeper
    for router in (api.router, api.probes, kserve.router, page.router):
        app.include_router(router)
    handle_errors(app)
    app.add_middleware(Limits)
    app.add_middleware(Observer)
    return app


@serve.ingress()
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
        insecure: bool,
    ) -> None:
        self._branches = Branches(profile, encoder, personalizer, normal, text, deadline_seconds)
        self._app = create_app(Service(store, self._branches), Doorkeeper(store, insecure=insecure))

    def __serve_build_asgi_app__(self) -> ASGIApp:
        return self._app

    async def drain(self) -> None:
        """Refuse new pictures, and return once those in flight are answered."""
        await self._branches.drain()
