"""Which adapter each sample of a UNet batch goes through, so that pictures of different categories share a batch."""

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

BASE = "__base__"  # peft's name for "no adapter"


@dataclass(frozen=True, eq=False)
class Mixture:
    """What a batch is made of. used: the adapters in it, each once, in a fixed order. rows: int64 (B,), on the UNet's
    device: for each sample, which of these is its own. layers: those of the UNet that have adapters."""

    used: tuple[str, ...]
    rows: Tensor
    layers: list[Any]

    @property
    def addresses(self) -> tuple[int, ...]:
        """Where the weights of the adapters lie."""
        parts = [part for layer in self.layers for part in (layer.lora_A, layer.lora_B)]
        return tuple(part[name].weight.data_ptr() for part in parts for name in self.used if name in part)


@contextmanager
def mixed_adapters(unet: Any, names: list[str]) -> Iterator[Mixture]:
    """Within it, the i-th sample of a batch goes through the adapter `names[i]`, exactly as if it were alone.

    peft's own `adapter_names` (huggingface.co/docs/peft/developer_guides/lora) picks the samples of one adapter after
    another, by lists: that is many small steps, which a CUDA graph cannot hold. Here all go through at once. Adapters
    that share a batch must have one rank.

    Raises:
        KeyError: a name that is not in the UNet; peft alone would silently use the base model.
    """
    unknown = set(names) - {BASE} - set(getattr(unet, "peft_config", {}))
    if unknown:
        raise KeyError(f"adapters not loaded: {sorted(unknown)}")
    used = tuple(sorted(set(names)))
    layers = list(lora_layers(unet))
    device = next(unet.parameters()).device
    mixture = Mixture(used, torch.tensor([used.index(name) for name in names], device=device), layers)
    for layer in layers:
        layer.forward = functools.partial(_forward, layer, mixture)
    try:
        yield mixture
    finally:
        for layer in layers:
            del layer.forward


def lora_layers(module: nn.Module) -> Iterator[LoraLayer]:
    """Those of a model, without a walk through what they hold: that grows with every adapter there is."""
    for child in module.children():
        if isinstance(child, LoraLayer):
            yield child
        else:
            yield from lora_layers(child)


def _forward(layer: Any, mixture: Mixture, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """W x + (alpha / r) B A x, Hu et al., 2022, with each sample's own B and A, which are of W's precision.

    Args: x: (B, tokens, width) of a linear layer, (B, C, H, W) of a convolution.
    """
    result: Tensor = layer.base_layer(x, *args, **kwargs)
    known = [name for name in mixture.used if name in layer.lora_A]
    if not known:
        return result
    add = _add_convolved if isinstance(layer.base_layer, nn.Conv2d) else _add_linear
    return add(layer, mixture, known[0], x, result)


def _add_linear(layer: Any, mixture: Mixture, first: str, x: Tensor, result: Tensor) -> Tensor:
    """Args: first: the first adapter of the batch that this layer has; result: W x."""
    if mixture.used == (first,):
        low = layer.lora_A[first](x).flatten(0, -2)
        up = layer.lora_B[first].weight
        return torch.addmm(result.flatten(0, -2), low, up.mT, alpha=layer.scaling[first]).view_as(result)
    down, up = _weights(layer, mixture, first)
    return torch.baddbmm(result, x @ down[mixture.rows].mT, up[mixture.rows].mT)


def _add_convolved(layer: Any, mixture: Mixture, first: str, x: Tensor, result: Tensor) -> Tensor:
    """The same where A is a convolution as W is, and B one of 1 × 1."""
    if mixture.used == (first,):
        return result + layer.scaling[first] * layer.lora_B[first](layer.lora_A[first](x))
    down, up = _weights(layer, mixture, first)
    one = layer.lora_A[first]
    # Through the A of all adapters at once, which have few channels each: then each sample's own are taken.
    all_low = F.conv2d(x, down.flatten(0, 1), None, one.stride, one.padding, one.dilation)
    low = all_low.unflatten(1, down.shape[:2])[torch.arange(len(x), device=x.device), mixture.rows]
    return result + (up[mixture.rows].flatten(2) @ low.flatten(2)).view_as(result)


def _weights(layer: Any, mixture: Mixture, first: str) -> tuple[Tensor, Tensor]:
    """A and (alpha / r) B of the batch's K adapters, (K, r, …) and (K, out, …): 0 of one that this layer has not."""
    down, up = (
        torch.stack(
            [
                part[name].weight * factor(name) if name in part else torch.zeros_like(part[first].weight)
                for name in mixture.used
            ]
        )
        for part, factor in ((layer.lora_A, lambda name: 1), (layer.lora_B, layer.scaling.get))
    )
    return down, up
