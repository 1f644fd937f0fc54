"""The application builder: plain arguments -> the bound deployments. Replicas and resources are in config.yaml."""

# No `from __future__ import annotations` here: with it Serve hands `build` a raw dict, unvalidated.
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ByteSize, ConfigDict, Field
from ray import serve

from o2n.branches import ADAPTER_BYTES, BANK_BYTES, TEXT_BYTES
from o2n.profiles import get_profile
from o2n.settings import get_settings
from o2n.store import CategoryStore
from serve.branches import Encoder, NormalScorer, Personalizer, TextScorer
from serve.gateway import Gateway

CONFIG = Path(__file__).with_name("config.yaml")


class Arguments(BaseModel):
    """What the application can be told; a key that is not here is refused."""

    model_config = ConfigDict(extra="forbid")

    profile: str = "tiny"
    store: str | None = None
    """Where categories live; by default $O2N_STORE of the cluster."""
    deadline_seconds: float = Field(30.0, gt=0)
    """A request is answered within this time, or refused."""
    adapter_memory: ByteSize = Field(ByteSize(ADAPTER_BYTES), gt=0)
    """What each Personalizer may keep of adapters; like the two below, a number of bytes or a text such as 512MiB."""
    bank_memory: ByteSize = Field(ByteSize(BANK_BYTES), gt=0)
    """What each NormalScorer may keep of memory banks."""
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
    encoder = serve.deployment(Encoder, **options["Encoder"]).bind(profile)
    adapters, banks, texts = arguments.adapter_memory, arguments.bank_memory, arguments.text_memory
    return serve.deployment(Gateway, **options["Gateway"]).bind(
        profile,
        store,
        encoder,
        serve.deployment(Personalizer, **options["Personalizer"]).bind(profile, store, encoder, adapters),
        serve.deployment(NormalScorer, **options["NormalScorer"]).bind(profile, store, banks),
        serve.deployment(TextScorer, **options["TextScorer"]).bind(profile, store, texts),
        arguments.deadline_seconds,
        arguments.insecure,
    )


def _options() -> dict[str, dict[str, Any]]:
    """By name, what config.yaml says of each deployment, so that it holds for `serve run` and `o2n serve` too."""
    (application,) = yaml.safe_load(CONFIG.read_text())["applications"]
    return {options.pop("name"): options for options in application["deployments"]}
