"""Models of a published architecture with random weights, in the hub's layout: enough to measure what they cost, and to
try the code that loads them, without having the weights."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import open_clip
import safetensors.torch
import torch
from diffusers import AutoencoderKL, AutoencoderTiny, DDIMScheduler, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from o2n.profiles import Profile

# Stable Diffusion 1.5: what its configuration files say beyond the classes' defaults.
SD15_UNET: dict[str, Any] = {"sample_size": 64, "cross_attention_dim": 768}
SD15_VAE: dict[str, Any] = {
    "block_out_channels": (128, 256, 512, 512),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "layers_per_block": 2,
    "sample_size": 512,
}
SD15_TEXT: dict[str, Any] = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
}


def blank_paper(profile: Profile, folder: Path) -> Profile:
    """Write Stable Diffusion 1.5 and the profile's open_clip encoder into `folder`, 6 GB, with random weights.

    Returns: the profile with these for sources, as it is otherwise.
    """
    clip, diffusion = folder / "clip", folder / "diffusion"
    blank_clip(open_clip.get_model_config(profile.encoder.source.partition("@")[0]), clip)
    blank_diffusion(SD15_UNET, SD15_VAE, SD15_TEXT, diffusion)
    change: dict[str, Any] = {"source": str(diffusion), "revision": None}
    if profile.diffusion.small_vae:
        change["small_vae"] = str(folder / "small_vae")
        with _seeded():
            AutoencoderTiny().save_pretrained(folder / "small_vae")
    return profile.model_copy(
        update={
            "encoder": profile.encoder.model_copy(update={"source": str(clip)}),
            "diffusion": profile.diffusion.model_copy(update=change),
        }
    )


def blank_clip(config: dict[str, Any], folder: Path) -> None:
    """A CLIP of open_clip. Args: config: open_clip's own, of the model."""
    folder.mkdir(parents=True)
    told = {
        "model_cfg": config,
        "preprocess_cfg": {"mean": open_clip.OPENAI_DATASET_MEAN, "std": open_clip.OPENAI_DATASET_STD},
    }
    (folder / "open_clip_config.json").write_text(json.dumps(told))
    with _seeded():
        model = open_clip.CLIP(**config)
    safetensors.torch.save_file(model.state_dict(), folder / "open_clip_model.safetensors")


def blank_diffusion(unet: dict[str, Any], vae: dict[str, Any] | None, text: dict[str, Any], folder: Path) -> None:
    """Stable Diffusion's layout: a UNet of latents, an autoencoder, a text encoder, a tokenizer, a scheduler.

    Args: what their configurations say beyond the defaults of diffusers and transformers; without a `vae` the UNet is
        one of pixels.
    """
    with _seeded():
        UNet2DConditionModel(**unet).save_pretrained(folder / "unet")
        if vae is not None:
            AutoencoderKL(**vae).save_pretrained(folder / "vae")
        CLIPTextModel(CLIPTextConfig(**text)).save_pretrained(folder / "text_encoder")
    _tokenizer(folder)
    DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    ).save_pretrained(folder / "scheduler")


def _tokenizer(folder: Path) -> None:
    """CLIP's own, of which open_clip ships the vocabulary."""
    bpe = open_clip.SimpleTokenizer()
    begin, end = "<|startoftext|>", "<|endoftext|>"
    renamed = {"<start_of_text>": begin, "<end_of_text>": end}
    files = folder / "tokenizer"
    files.mkdir(parents=True)
    vocabulary = {renamed.get(token, token): index for token, index in bpe.encoder.items()}
    (files / "vocab.json").write_text(json.dumps(vocabulary))
    (files / "merges.txt").write_text("#version: 0.2\n" + "\n".join(f"{a} {b}" for a, b in bpe.bpe_ranks))
    CLIPTokenizer.from_pretrained(
        files, bos_token=begin, eos_token=end, unk_token=end, pad_token=end, model_max_length=77
    ).save_pretrained(files)


@contextmanager
def _seeded() -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield
