"""The application builder: plain arguments -> the bound deployments. Replicas and resources are in config.yaml."""

# No `from __future__ import annotations` here: with it Serve hands `build` a raw dict, unvalidated.
from pydantic import BaseModel, ConfigDict, Field
from ray import serve

from o2n.profiles import get_profile
from o2n.settings import get_settings
from o2n.store import CategoryStore
from serve.branches import Encoder, NormalScorer, Personalizer, TextScorer
from serve.gateway import Gateway


class Arguments(BaseModel):
    """What the application can be told; a key that is not here is refused."""

    model_config = ConfigDict(extra="forbid")

    profile: str = "tiny"
    store: str | None = None
    """Where categories live; by default $O2N_STORE of the cluster."""
    deadline_seconds: float = Field(30.0, gt=0)
    """A request is answered within this time, or refused."""
    insecure: bool = False
    """Anybody who reaches the port may do everything: for loopback only."""


def build(arguments: Arguments) -> serve.Application:
    """The application `serve run serve.app:build profile=… store=…` runs.

    Raises:
        FoundationError, StoreError: a profile or store that does not exist.
    """
    profile = get_profile(arguments.profile)
    store = CategoryStore(arguments.store or get_settings().store)
    encoder = serve.deployment(Encoder).bind(profile)
    return serve.deployment(Gateway).bind(
        profile,
        store,
        encoder,
        serve.deployment(Personalizer).bind(profile, store, encoder),
        serve.deployment(NormalScorer).bind(profile, store),
        serve.deployment(TextScorer).bind(profile, store),
        arguments.deadline_seconds,
        arguments.insecure,
    )
