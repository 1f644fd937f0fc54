"""CLIP's text tower -> the diffusion model's text encoder, which it is, as in Stable Diffusion.

One trained beside the UNet would learn nothing: most of what is to be drawn shows in the noised picture, and before
prompts differ the UNet has no reason to read them. CLIP's have been taught to tell good from bad.
"""

import torch
from torch import Tensor

from o2n.models import ClipModel, DiffusionModel

# Names in open_clip's `CLIP` (github.com/mlfoundations/open_clip, transformer.py) and in transformers' `CLIPTextModel`.
_OUTER = {
    "token_embedding.weight": "embeddings.token_embedding.weight",
    "positional_embedding": "embeddings.position_embedding.weight",
    "ln_final.weight": "final_layer_norm.weight",
    "ln_final.bias": "final_layer_norm.bias",
}
_BLOCK = {
    "ln_1": "layer_norm1",
    "attn.out_proj": "self_attn.out_proj",
    "ln_2": "layer_norm2",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}


def read_as_clip(diffusion: DiffusionModel, clip: ClipModel) -> None:
    """Give `diffusion` the weights of `clip`'s text tower; both are of one shape, as the embedded ones are."""
    tower = clip.model.state_dict()
    diffusion.text_encoder.load_state_dict({own: tower[name] for name, own in _OUTER.items()} | _blocks(tower))


def _blocks(tower: dict[str, Tensor]) -> dict[str, Tensor]:
    found = {}
    for name in [name for name in tower if name.startswith("transformer.resblocks.")]:
        number, inner = name.removeprefix("transformer.resblocks.").split(".", 1)
        block = f"encoder.layers.{number}"
        if inner.startswith("attn.in_proj_"):
            kind = inner.removeprefix("attn.in_proj_")
            for part, weight in zip("qkv", torch.chunk(tower[name], 3), strict=True):
                found[f"{block}.self_attn.{part}_proj.{kind}"] = weight
        else:
            layer, kind = inner.rsplit(".", 1)
            found[f"{block}.{_BLOCK[layer]}.{kind}"] = tower[name]
    return found
