"""Adapters of many categories in one UNet: a few places, filled anew for every batch that needs others."""

import functools
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from o2n.customize import load_adapter, read_adapter
from o2n.errors import IntegrityError
from o2n.models import DiffusionModel

# Adapters in the UNet at once, and so the most versions that share one of its batches.
SLOTS = 8


class Slots:
    """A few places for adapters in one UNet, filled anew from what is loaded for every batch that needs others.

    Copying weights into a place takes a few milliseconds. Adding an adapter to a UNet takes peft longer the more are
    in it, two seconds at 160, and all that time nobody else can use the UNet.
    """

    def __init__(self, model: DiffusionModel) -> None:
        self._model = model
        # Keeps the threads of a process from changing the UNet under each other.
        self._lock = threading.Lock()
        # The first adapter: one of another form, of other alpha or layers, cannot take its place.
        self._template = b""
        self._form: tuple[dict[str, Any], dict[str, torch.Size]] = ({}, {})
        self._parameters: dict[str, dict[str, Tensor]] = {}
        self._held: dict[str, str] = {}  # place -> digest, the one used least recently first; "" while it is filled

    def fitting(self, data: bytes, digest: str) -> dict[str, Tensor]:
        """The weights in the adapter file `data`, by their names in the UNet.

        Raises:
            IntegrityError: not an adapter file, or one made for another UNet.
        """
        metadata, weights = read_adapter(data)
        # What else is in it is the text encoder's, whose changes are in a version's prompts.
        of_unet = {name: value for name, value in metadata.items() if name.startswith("unet.")}
        form = (of_unet, {key: tensor.shape for key, tensor in weights.items()})
        with self._lock:
            if not self._template:
                self._held[self._open(data)] = digest
                self._template, self._form = data, form
        if form != self._form:
            raise IntegrityError(f"adapter {digest} does not fit this diffusion model: onboard its category again")
        return weights

    @contextmanager
    def holding(self, wanted: Mapping[str, dict[str, Tensor]]) -> Iterator[dict[str, str]]:
        """The UNet for oneself, with these adapters in it: by digest, the name of each there.

        Args: wanted: the weights, as `fitting` reads them, by the adapter's digest; at most `SLOTS`.
        """
        with self._lock:
            places = {digest: place for place, digest in self._held.items() if digest in wanted}
            free = [place for place, digest in self._held.items() if digest not in wanted]
            for digest, weights in wanted.items():
                if digest not in places:
                    places[digest] = self._open(self._template) if len(self._held) < SLOTS else free.pop(0)
                    self._held[places[digest]] = ""  # should this be interrupted, nobody may take it for the old one
                    self._fill(places[digest], weights)
                self._held.pop(places[digest])
                self._held[places[digest]] = digest
            yield places

    def _open(self, data: bytes) -> str:
        place = f"o2n_slot_{len(self._held)}"
        load_adapter(self._model, place, data)
        del self._model.text_loras[place]  # a version's prompts are read once, when it is loaded
        self._parameters[place] = {
            name.replace(f".{place}.", "."): parameter
            for name, parameter in self._model.unet.named_parameters()
            if f".{place}." in name
        }
        return place

    @torch.no_grad()
    def _fill(self, place: str, weights: dict[str, Tensor]) -> None:
        for key, parameter in self._parameters[place].items():
            parameter.copy_(weights[key])


@functools.cache
def slots_in(model: DiffusionModel) -> Slots:
    """One per UNet: two scorers in a process share their models, and so what is put into them."""
    return Slots(model)


def stretches(digests: list[str], most: int) -> Iterator[slice]:
    """Where to cut a batch of adapters so that no stretch has more than `most` different ones."""
    start, seen = 0, set[str]()
    for at, digest in enumerate(digests):
        if digest not in seen and len(seen) == most:
            yield slice(start, at)
            start, seen = at, set()
        seen.add(digest)
    yield slice(start, len(digests))
