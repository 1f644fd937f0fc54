"""Checkpoints of the trainings -> the weights that are shipped: averages, float16, under the hub's file names."""

from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor

from o2n.errors import O2NError

FILES = {
    "clip": {"clip": "clip/open_clip_model.safetensors", "maps": "clip/linear_maps.safetensors"},
    "diffusion": {
        "unet": "diffusion/unet/diffusion_pytorch_model.safetensors",
        "text_encoder": "diffusion/text_encoder/model.safetensors",
    },
}


def averaged(checkpoint: Path) -> dict[str, dict[str, Tensor]]:
    """The averaged weights in a training's checkpoint, by module.

    Raises:
        O2NError: there is none.
    """
    if not checkpoint.exists():
        raise O2NError(f"there is no {checkpoint}: run the training {checkpoint.parent.name!r} first, in that --folder")
    modules: dict[str, dict[str, Tensor]] = {}
    for name, weight in torch.load(checkpoint, map_location="cpu", weights_only=True)["average"].items():
        module, key = name.split(".", 1)
        modules.setdefault(module, {})[key] = weight
    return modules


def export(checkpoint: Path, kind: str, into: Path) -> list[Path]:
    """Write the averaged weights in a training's checkpoint; `kind` is a key of `FILES`. Returns the files."""
    modules, written = averaged(checkpoint), []
    for module, name in FILES[kind].items():
        halved = {key: value.half() if value.is_floating_point() else value for key, value in modules[module].items()}
        file = into / name
        file.parent.mkdir(parents=True, exist_ok=True)
        safetensors.torch.save_file({key: value.contiguous() for key, value in halved.items()}, file)
        written.append(file)
    return written
