"""The models of the method as everything else sees them: encoders of pictures, CLIP, the diffusion model. Knows no
profile and no file."""

import copy
import functools
import hashlib
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, UniPCMultistepScheduler
from torch import Tensor, nn
from torch.nn.attention import SDPBackend

from o2n.images import Picture
from o2n.text_adapter import TextLora, adapted

Tokenizer = Callable[[list[str]], Tensor]

# What models may be trained with. Missing is cuDNN's attention, which PyTorch 2.11 prefers on an H100 and an H200: its
# gradients there can be no numbers (github.com/pytorch/pytorch/issues/196678).
SOUND_ATTENTION = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]

# None of them adds noise on its way, so a counterpart is a function of the query, its noise and the prompt.
SOLVERS: dict[str, Any] = {
    "ddim": DDIMScheduler,  # Song et al., 2021
    "dpm++": DPMSolverMultistepScheduler,  # Lu et al., 2022, DPM-Solver++ of second order
    "unipc": UniPCMultistepScheduler,  # Zhao et al., 2023: made for 5 to 10 steps
}


class LinearMaps(nn.Module):
    """One trained linear map per level, from patch features into the space of the text features (F' of eq. 6)."""

    def __init__(self, levels: int, width: int, embed_dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(levels, width, embed_dim) * width**-0.5)
        self.bias = nn.Parameter(torch.zeros(levels, embed_dim))

    def forward(self, features: Tensor) -> Tensor:
        """float32 (..., S·L, G, D) -> (..., S·L, G, E): every scale's levels by the same maps."""
        by_scale = features.unflatten(-3, (-1, len(self.weight)))
        mapped = by_scale @ self.weight.to(features.dtype) + self.bias[:, None].to(features.dtype)
        return mapped.flatten(-4, -3)


@dataclass(frozen=True, eq=False)
class VisionModel:
    """An encoder of pictures in evaluation mode: a vision transformer of timm, such as a DINOv2 or a DINOv3."""

    model: Any
    resolution: int
    mean: Tensor
    std: Tensor

    @property
    def depth(self) -> int:
        """How many blocks it has."""
        return len(self.model.blocks)

    @property
    def seeing(self) -> Any:
        """The part of the model that pictures go through."""
        return self.model

    def blocks(self, pictures: Tensor, levels: tuple[int, ...]) -> list[Tensor]:
        """What the blocks `levels`, counted from 1, put out: of each (B, G, D), without prefix tokens.

        Normalised like the last block's, as DINOv2's own `get_intermediate_layers` does it.

        Args: pictures: float32 (B, 3, H, W) in [0, 1].
        """
        return self.model.forward_intermediates(
            self.pixels(pictures),
            indices=[level - 1 for level in levels],
            norm=True,
            stop_early=True,
            intermediates_only=True,
            output_fmt="NLC",
        )

    def pixels(self, pictures: Tensor) -> Tensor:
        """float32 (B, 3, H, W) in [0, 1] -> normalised (B, 3, R, R) on the model's device, in its precision."""
        x = (resized(pictures.to(self.mean.device), self.resolution) - self.mean) / self.std
        return x.to(_dtype(self.seeing))


@dataclass(frozen=True, eq=False)
class ClipModel(VisionModel):
    """The same of an open_clip model, which also reads.

    digest: of its weights as they come, whatever this device computes in. maps: the trained linear maps of its levels,
    if any.
    """

    tokenize: Tokenizer
    digest: str
    maps: LinearMaps | None = None

    @property
    def depth(self) -> int:
        return self.model.visual.transformer.layers

    @property
    def seeing(self) -> Any:
        return self.model.visual

    def blocks(self, pictures: Tensor, levels: tuple[int, ...]) -> list[Tensor]:
        """As they come out of the blocks: what brings them into the space of the texts normalises them itself."""
        return self.model.visual.forward_intermediates(
            self.pixels(pictures),
            indices=[level - 1 for level in levels],
            stop_early=True,
            intermediates_only=True,
            output_fmt="NLC",
        )["image_intermediates"]


@dataclass(frozen=True, eq=False)
class DiffusionModel:
    """The diffusion model in evaluation mode.

    Without a `vae` it works on pixels: the latent is the picture itself, its squares of `fold` × `fold` pixels laid
    into channels (Hoogeboom et al., 2023, "simple diffusion"), which loses nothing and spares the UNet its dearest
    level.
    """

    unet: Any
    text_encoder: Any
    tokenize: Tokenizer
    scheduler_config: dict[str, Any]
    vae: Any | None
    resolution: int
    solver: str = "ddim"
    # By the names of the adapters in the UNet, what each has for the text encoder.
    text_loras: dict[str, TextLora] = field(default_factory=dict)

    @property
    def device(self) -> torch.device:
        return self.unet.conv_in.weight.device  # diffusers' own `device` walks through all modules to find it

    @property
    def fold(self) -> int:
        """Pixels along a side of the square that one place of the latent stands for."""
        if self.vae is None:
            return math.isqrt(self.unet.config.in_channels // 3)
        return 2 ** (len(self.vae.config.block_out_channels) - 1)

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """(C, h, w) of one picture's latent."""
        side = self.resolution // self.fold
        return (self.unet.config.in_channels, side, side)

    @functools.cached_property
    def noising(self) -> DDIMScheduler:
        """The schedule by which pictures are noised, whatever solver takes the noise away."""
        return DDIMScheduler.from_config(self.scheduler_config)

    @functools.cached_property
    def _unset_scheduler(self) -> Any:
        return SOLVERS[self.solver].from_config(self.scheduler_config)

    def scheduler(self, steps: int) -> Any:
        """A fresh scheduler of `SOLVERS` whose timesteps are set for `steps` steps of a whole run."""
        scheduler = copy.deepcopy(self._unset_scheduler)  # to compute a schedule takes longer than a solver's step
        scheduler.set_timesteps(steps)
        return scheduler

    def predict(self, x: Tensor, t: Tensor, text: Tensor) -> Tensor:
        """What the UNet makes of noised latents: float32 (B, C, h, w) -> float32, whatever the UNet computes in.

        Args: t: (B,) or one for all; text: float32 (B, tokens, width).
        """
        dtype = self.unet.conv_in.weight.dtype  # `unet.dtype` may be that of an adapter
        return self.unet(x.to(dtype), t, text.to(dtype)).sample.float()

    @torch.inference_mode()
    def encode(self, pictures: list[Picture] | Tensor) -> Tensor:
        """Pictures of one size, uint8 (H, W, 3) or float32 (B, 3, H, W) in [0, 1] -> latents float32 (B, C, h, w)."""
        unit = pictures.to(self.device) if isinstance(pictures, Tensor) else to_unit(pictures, self.device)
        x = resized(unit, self.resolution) * 2 - 1
        if self.vae is None:
            return F.pixel_unshuffle(x, self.fold)
        encoded = self.vae.encode(x.to(_dtype(self.vae)))
        latents = encoded.latent_dist.mode() if hasattr(encoded, "latent_dist") else encoded.latents
        return latents.float() * self.vae.config.scaling_factor

    @torch.inference_mode()
    def decode(self, latents: Tensor) -> Tensor:
        """Latents float32 (B, C, h, w) -> pictures float32 (B, 3, R, R) in [0, 1]."""
        if self.vae is None:
            x = F.pixel_shuffle(latents, self.fold)
        else:
            x = self.vae.decode((latents / self.vae.config.scaling_factor).to(_dtype(self.vae))).sample.float()
        return (x.clamp(-1, 1) + 1) / 2

    @torch.inference_mode()
    def embed(self, prompts: list[str], lora: TextLora | None = None) -> Tensor:
        """Prompts -> text conditioning float32 (B, tokens, width).

        Args: lora: an adapter's for the text encoder, as in `text_loras`.
        """
        text_encoder = adapted(self.text_encoder, lora) if lora else self.text_encoder
        return text_encoder(self.tokenize(prompts).to(self.device))[0].float()


def _dtype(model: nn.Module) -> torch.dtype:
    """Of its weights; diffusers' own `dtype` walks through all modules to find it."""
    return next(model.parameters()).dtype


def to_unit(pictures: list[Picture], device: torch.device) -> Tensor:
    """uint8 (H, W, 3) pictures of one size -> float32 (B, 3, H, W) in [0, 1]."""
    return torch.from_numpy(np.stack(pictures)).to(device).permute(0, 3, 1, 2).float() / 255


def resized(x: Tensor, side: int) -> Tensor:
    """float32 (B, 3, H, W) in [0, 1] -> (B, 3, side, side), bicubic; itself if it has that size."""
    if x.shape[-2:] == (side, side):
        return x
    return F.interpolate(x, size=(side, side), mode="bicubic", antialias=True).clamp(0, 1)


def to_pictures(x: Tensor) -> list[Picture]:
    """float32 (B, 3, H, W) in [0, 1] -> uint8 (H, W, 3) pictures."""
    return list(np.ascontiguousarray((x * 255).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()))


def weights_digest(modules: Iterable[nn.Module]) -> str:
    """The first 16 digits of `weights_sha256`."""
    return weights_sha256(modules)[:16]


def weights_sha256(modules: Iterable[nn.Module]) -> str:
    """Which weights these are, down to the last bit: 64 hex digits."""
    digest = hashlib.sha256()
    for module in modules:
        for name, tensor in sorted(module.state_dict().items()):
            digest.update(name.encode())
            digest.update(
                tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes()
                if tensor.ndim
                else repr(tensor.item()).encode()
            )
    return digest.hexdigest()
