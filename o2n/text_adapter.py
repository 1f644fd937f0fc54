"""LoRA in the attention of the text encoder, where a profile trains it beside the UNet (eq. 1)."""

import copy
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call

# Weights by their layer's name in the text encoder: A (r, in) and B (out, r), float32.
TextLora = dict[str, tuple[Tensor, Tensor]]

TEXT_MODULES = ["q_proj", "k_proj", "v_proj", "out_proj"]

_LAYERS = tuple(f".{name}" for name in TEXT_MODULES)
_PREFIX = "text_encoder.text_model."  # where files of diffusers have them, whatever transformers calls them today


def fresh_lora(text_encoder: Any, rank: int) -> TextLora:
    """Untrained weights, which change nothing: A is Gaussian, as peft's are for diffusers, and B is 0."""
    lora: TextLora = {}
    for name, layer in text_encoder.named_modules():
        if name.endswith(_LAYERS):
            device = layer.weight.device
            down = torch.randn(rank, layer.in_features) / rank
            up = torch.zeros(layer.out_features, rank)
            lora[name] = down.to(device).requires_grad_(), up.to(device).requires_grad_()
    return lora


def read_with(text_encoder: Any, lora: TextLora, scaling: float, tokens: Tensor) -> Tensor:
    """Token ids (B, T) -> conditioning float32 (B, T, width), by which gradients flow back into `lora`. It swaps the
    weights for a moment: not for a text encoder that another thread reads with."""
    changed = {
        f"{name}.weight": text_encoder.get_submodule(name).weight + scaling * up @ down
        for name, (down, up) in lora.items()
    }
    return functional_call(text_encoder, changed, (tokens,))[0].float()


def adapted(text_encoder: Any, lora: TextLora) -> Any:
    """A text encoder of its own with W + B A for its weights W (Hu et al., 2022)."""
    changed = copy.deepcopy(text_encoder)
    for name, (down, up) in lora.items():
        weight = changed.get_submodule(name).weight
        weight.data += (up @ down).to(weight)
    return changed


def to_file(lora: TextLora) -> dict[str, Tensor]:
    """The tensors of an adapter file of diffusers."""
    return {
        f"{_PREFIX}{name.removeprefix('text_model.')}.lora_{part}.weight": weight.detach().cpu().contiguous()
        for name, pair in lora.items()
        for part, weight in zip("AB", pair, strict=True)
    }


def from_file(tensors: dict[str, Tensor], text_encoder: Any, scaling: float) -> TextLora:
    """The weights in an adapter file, on the text encoder's device, `scaling` being part of B; none where the file has
    no such tensors.

    Raises:
        ValueError: they were made for another text encoder.
    """
    lora: TextLora = {}
    device = next(text_encoder.parameters()).device
    for name, layer in text_encoder.named_modules():
        if name.endswith(_LAYERS):
            key = f"{_PREFIX}{name.removeprefix('text_model.')}"
            pair = [tensors[f"{key}.lora_{part}.weight"] for part in "AB" if f"{key}.lora_{part}.weight" in tensors]
            if pair:
                down, up = pair
                if (up @ down).shape != layer.weight.shape:
                    raise ValueError(f"{name} has {layer.in_features} × {layer.out_features} weights")
                lora[name] = (down.float().to(device), scaling * up.float().to(device))
    if (known := len([key for key in tensors if key.startswith(_PREFIX)])) != 2 * len(lora):
        raise ValueError(f"{known} tensors for a text encoder of {2 * len(lora)}")
    return lora
