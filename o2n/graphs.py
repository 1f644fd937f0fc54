"""The UNet's step as a CUDA graph, to draw with and to train with. A GPU does a step of a few pictures faster than
Python starts its thousand kernels: a graph starts them all at once
(pytorch.org/docs/stable/notes/cuda.html#cuda-graphs)."""

import functools
import gc
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor, nn

from o2n.mixture import Mixture
from o2n.models import DiffusionModel

Step = Callable[[Tensor, Tensor], Tensor]  # x (B, C, h, w) and t -> the UNet's prediction (B, C, h, w)

KEPT = 16

_without: ContextVar[bool] = ContextVar("without_graphs", default=False)


@contextmanager
def without_graphs() -> Iterator[None]:
    """Within it every step is taken kernel by kernel, so that they can be counted, or compared."""
    token = _without.set(True)
    try:
        yield
    finally:
        _without.reset(token)


def unet_step(model: DiffusionModel, x: Tensor, text: Tensor, mixture: Mixture) -> Step:
    """The UNet's step for batches like `x` with these prompts, in the mixture that it is in now.

    On a GPU it is a graph from the second time on that a batch of this shape and of these adapters comes: making one
    costs as much as three steps.
    """
    if model.device.type != "cuda" or _without.get():
        return lambda x, t: model.predict(x, t, text)
    with torch.cuda.device(model.device):  # streams and recordings are of the current one, which each thread has anew
        return _graphs_of(model).step(x, text, mixture)


@contextmanager
def training_step(model: DiffusionModel, record: bool = True) -> Iterator[Callable[[Tensor, Tensor, Tensor], Tensor]]:
    """Within it `DiffusionModel.predict` for batches of one shape, with gradients. On a GPU the first call records it
    forwards and backwards; under autocast that wants `cache_enabled=False`.

    Args: record: False where activations are computed twice, which cannot be recorded.
    """
    module, recorded = _Predict(model), False
    recording = model.device.type == "cuda" and record and not _without.get()

    def step(*arguments: Tensor) -> Tensor:
        nonlocal recorded
        if recording and not recorded:
            sample = tuple(one.detach().clone().requires_grad_(one.requires_grad) for one in arguments)
            with torch.cuda.device(model.device):
                torch.cuda.make_graphed_callables(module, sample, allow_unused_input=True)
            recorded = True
        predicted: Tensor = module(*arguments)
        return predicted

    try:
        yield step
    finally:
        vars(module).pop("forward", None)  # what was recorded holds itself by it
        if recorded:
            # And by a class of its own, which is in a cycle as all classes are: until a collection the GPU's memory
            # stays taken, and one that comes in the middle of another recording spoils that.
            gc.collect()


class _Predict(nn.Module):
    def __init__(self, model: DiffusionModel) -> None:
        super().__init__()
        self.unet = model.unet
        self._predict = model.predict

    def forward(self, x: Tensor, t: Tensor, text: Tensor) -> Tensor:
        return self._predict(x, t, text)


class _Graph:
    """One recorded step. It holds addresses and not values: what is copied there counts, and so do adapters whose
    weights were filled anew in their places."""

    def __init__(
        self, model: DiffusionModel, x: Tensor, text: Tensor, mixture: Mixture, pool: Any, recorder: torch.cuda.Stream
    ) -> None:
        self._x, self._text, self._rows = x.clone(), text.clone(), mixture.rows
        self._t = torch.zeros((), dtype=torch.int64, device=x.device)
        # The first run on a stream makes handles and workspaces, which must not be part of the graph.
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            model.predict(self._x, self._t, self._text)
        torch.cuda.current_stream().wait_stream(stream)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph, pool=pool, stream=recorder, capture_error_mode="thread_local"):
            self._out = model.predict(self._x, self._t, self._text)

    def prepare(self, text: Tensor, mixture: Mixture) -> Step:
        self._text.copy_(text)
        self._rows.copy_(mixture.rows)
        return self._step

    def _step(self, x: Tensor, t: Tensor) -> Tensor:
        self._x.copy_(x)
        self._t.copy_(t)
        self._graph.replay()
        return self._out.clone()


class _Graphs:
    """The graphs of one model, those used last. They share their memory: only one runs at a time."""

    def __init__(self, model: DiffusionModel) -> None:
        self._model, self._pool = model, torch.cuda.graph_pool_handle()
        # A stream that nothing else is run or recorded on, for those of another priority are others: cuBLAS's workspace
        # of it, whose address graphs keep, lies in their own memory (github.com/pytorch/pytorch/issues/193402).
        self._recorder = torch.cuda.Stream(priority=-1)
        self._made: OrderedDict[Any, _Graph | None] = OrderedDict()  # None: seen once

    def step(self, x: Tensor, text: Tensor, mixture: Mixture) -> Step:
        key = (x.shape, text.shape, mixture.used, mixture.addresses)
        seen = key in self._made
        graph = self._made.pop(key, None)
        if seen and graph is None:
            graph = _Graph(self._model, x, text, mixture, self._pool, self._recorder)
        self._made[key] = graph
        if len(self._made) > KEPT:
            self._made.popitem(last=False)
        if graph is None:
            return lambda x, t: self._model.predict(x, t, text)
        return graph.prepare(text, mixture)


@functools.cache
def _graphs_of(model: DiffusionModel) -> _Graphs:
    return _Graphs(model)
