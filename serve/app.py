"""The application builder: plain arguments -> the bound deployments. Replicas and resources are in config.yaml."""

# No `from __future__ import annotations` here: with it Serve hands `build` a raw dict, unvalidated.
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ByteSize, ConfigDict, Field
from ray import serve

from o2n.branches import ADAPTER_BYTES, BANK_BYTES, TEXT_BYTES
from o2n.profiles import get_profile
from o2n.references import REFERENCE_BYTES
from o2n.settings import get_settings
from o2n.store import CategoryStore
from serve.deployments import Encoder, NormalScorer, Personalizer, TextScorer
from serve.gateway import Gateway

# Of any request: beyond it come `graceful_shutdown_timeout_s` of config.yaml and, with time to find the category in,
# `proxy.ANSWER_SECONDS`, which would both end what the gateway still works at.
MAX_DEADLINE_SECONDS = 40.0

CONFIG = Path(__file__).with_name("config.yaml")


class Arguments(BaseModel):
    """What the application can be told; a key that is not here is refused."""

    model_config = ConfigDict(extra="forbid")

    profile: str = "tiny"
    store: str | None = None
    """Where categories live; by default $O2N_STORE of the cluster."""
    deadline_seconds: float = Field(30.0, gt=0, le=MAX_DEADLINE_SECONDS)
    """A request is answered within this time, or refused."""
    adapter_memory: ByteSize = Field(ByteSize(ADAPTER_BYTES), gt=0)
    """What each Personalizer may keep of adapters; like the three below, a number of bytes or a text such as 512MiB."""
    bank_memory: ByteSize = Field(ByteSize(BANK_BYTES), gt=0)
    """What each NormalScorer may keep of memory banks."""
    reference_memory: ByteSize = Field(ByteSize(REFERENCE_BYTES), gt=0)
    """What each NormalScorer may keep beside them of the normal pictures that are shown with an answer."""
    text_memory: ByteSize = Field(ByteSize(TEXT_BYTES), gt=0)
    """What each TextScorer may keep of text features."""
    insecure: bool = False
    """Anybody who reaches the port may do everything: for loopback only."""


def build(arguments: Arguments) -> serve.Application:
    """The application `serve run serve.app:build profile=… store=…` runs.

    Raises:
        FoundationError, StoreError: a profile or store that does not exist.
    """
    profile = get_profile(arguments.profile)
    store = CategoryStore(arguments.store or get_settings().store)
    options = _options()
    return serve.deployment(Gateway, **options["Gateway"]).bind(
        profile,
        store,
        serve.deployment(Encoder, **options["Encoder"]).bind(profile),
        serve.deployment(Personalizer, **options["Personalizer"]).bind(profile, store, arguments.adapter_memory),
        serve.deployment(NormalScorer, **options["NormalScorer"]).bind(
            profile, store, arguments.bank_memory, arguments.reference_memory
        ),
        serve.deployment(TextScorer, **options["TextScorer"]).bind(profile, store, arguments.text_memory),
        arguments.deadline_seconds,
        arguments.insecure,
    )


def _options() -> dict[str, dict[str, Any]]:
    """By name, what config.yaml says of each deployment, so that it holds for `serve run` and `o2n serve` too."""
    (application,) = yaml.safe_load(CONFIG.read_text())["applications"]
    return {options.pop("name"): options for options in application["deployments"]}
