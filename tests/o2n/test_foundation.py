"""Models from every kind of source. Directories are small models saved in the hub's own file layout."""

import json
from pathlib import Path

import numpy as np
import open_clip
import pytest
import safetensors.torch
import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from o2n.errors import FoundationError
from o2n.foundation import EMBEDDED, load_foundation, load_from, pick_device
from o2n.models import to_pictures
from o2n.personalize import BASE, redraw, seeded_noise
from o2n.profiles import TINY, Profile
from o2n.tiny.weights import FILES
from tests.helpers import checks


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clip")
    config = json.loads((EMBEDDED / "clip" / "open_clip_config.json").read_text())
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    torch.manual_seed(1)
    safetensors.torch.save_file(
        open_clip.CLIP(**config["model_cfg"]).state_dict(), folder / "open_clip_model.safetensors"
    )
    return folder


@pytest.fixture(scope="module")
def diffusion_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Stable Diffusion's layout: a UNet of latents, an autoencoder, a text encoder, a tokenizer, a scheduler."""
    folder = tmp_path_factory.mktemp("diffusion")
    torch.manual_seed(2)
    UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(8, 16),
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        layers_per_block=1,
        norm_num_groups=4,
        cross_attention_dim=16,
        attention_head_dim=2,
    ).save_pretrained(folder / "unet")
    AutoencoderKL(
        block_out_channels=(8, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        norm_num_groups=4,
        scaling_factor=0.5,
    ).save_pretrained(folder / "vae")
    text = CLIPTextConfig(hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2)
    CLIPTextModel(text).save_pretrained(folder / "text_encoder")
    bpe = open_clip.SimpleTokenizer()
    begin, end = "<|startoftext|>", "<|endoftext|>"
    renamed = {"<start_of_text>": begin, "<end_of_text>": end}
    (folder / "files").mkdir()
    vocabulary = {renamed.get(token, token): index for token, index in bpe.encoder.items()}
    (folder / "files" / "vocab.json").write_text(json.dumps(vocabulary))
    (folder / "files" / "merges.txt").write_text("#version: 0.2\n" + "\n".join(f"{a} {b}" for a, b in bpe.bpe_ranks))
    CLIPTokenizer.from_pretrained(
        folder / "files", bos_token=begin, eos_token=end, unk_token=end, pad_token=end, model_max_length=77
    ).save_pretrained(folder / "tokenizer")
    DDIMScheduler(beta_schedule="scaled_linear", clip_sample=False).save_pretrained(folder / "scheduler")
    return folder


def profile(clip: Path | str = "embedded", diffusion: Path | str = "embedded", **change: object) -> Profile:
    return TINY.model_copy(
        update={
            "encoder": TINY.encoder.model_copy(update={"source": str(clip)} | change),
            "diffusion": TINY.diffusion.model_copy(update={"source": str(diffusion)}),
        }
    )


def test_the_embedded_models_are_the_same_in_every_process() -> None:
    load_foundation.cache_clear()
    first = load_foundation(TINY).identity
    torch.manual_seed(99)
    load_foundation.cache_clear()
    assert load_foundation(TINY).identity == first


def test_building_from_a_seed_leaves_the_random_state_alone() -> None:
    load_foundation.cache_clear()
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    load_foundation(TINY)
    assert torch.equal(torch.rand(2), expected)


def test_the_shipped_weights_are_small_trained_and_safe() -> None:
    files = [file for file in EMBEDDED.rglob("*") if file.suffix not in (".json", ".md", ".py", ".pyc", "")]
    assert {file.suffix for file in files} == {".safetensors"}
    assert sum(file.stat().st_size for file in files) <= 24e6
    assert {file.relative_to(EMBEDDED).as_posix() for file in files} == {
        name for of in FILES.values() for name in of.values()
    }
    trained, untrained = load_foundation(TINY), load_from(TINY, None)
    assert trained.identity != untrained.identity


def test_a_clip_from_a_directory_has_that_directorys_weights(clip_folder: Path) -> None:
    loaded = load_foundation(profile(clip=clip_folder))
    saved = safetensors.torch.load_file(clip_folder / "open_clip_model.safetensors")
    assert torch.equal(loaded.clip.model.visual.conv1.weight, saved["visual.conv1.weight"])
    assert loaded.identity != load_foundation(TINY).identity


def test_a_latent_diffusion_model_from_a_directory(diffusion_folder: Path) -> None:
    model = load_foundation(profile(diffusion=diffusion_folder)).diffusion
    assert model.vae is not None
    assert model.latent_shape == (4, 32, 32)
    latents = model.encode([checks(0), checks(1)])
    assert latents.shape == (2, 4, 32, 32)
    text = model.embed(["a board", "a cloth"])
    assert text.shape == (2, 77, 16)
    noise = seeded_noise(0, (2, 4, 32, 32))
    redrawn = redraw(model, latents, noise, text, [BASE] * 2, t=0.5, steps=4, guidance=2.0)
    pictures = to_pictures(model.decode(redrawn))
    assert [p.shape for p in pictures] == [(64, 64, 3)] * 2
    assert pictures[0].dtype == np.uint8


def test_a_hub_tokenizer_gives_the_ids_of_the_embedded_one(diffusion_folder: Path) -> None:
    theirs = load_foundation(profile(diffusion=diffusion_folder)).diffusion.tokenize(["a photo of a metal nut."])
    ours = load_foundation(TINY).diffusion.tokenize(["a photo of a metal nut."])
    length = int((ours[0] != 0).sum())
    assert torch.equal(theirs[0, :length], ours[0, :length])


def test_a_pixel_model_encodes_and_decodes_without_loss() -> None:
    model = load_foundation(TINY).diffusion
    assert model.latent_shape == (12, 32, 32)
    pictures = [checks(0), checks(1)]
    decoded = to_pictures(model.decode(model.encode(pictures)))
    assert all(np.array_equal(a, b) for a, b in zip(decoded, pictures, strict=True))


@pytest.mark.parametrize("part", ["unet", "text_encoder", "tokenizer", "scheduler", "vae"])
def test_a_directory_with_a_part_missing_is_refused(diffusion_folder: Path, tmp_path: Path, part: str) -> None:
    for folder in diffusion_folder.iterdir():
        if folder.name != part:
            (tmp_path / folder.name).symlink_to(folder)
    with pytest.raises(FoundationError, match="diffusion model") as refused:
        load_foundation(profile(diffusion=tmp_path))
    assert str(tmp_path) in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_damaged_weight_file_is_refused(clip_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "open_clip_config.json").write_bytes((clip_folder / "open_clip_config.json").read_bytes())
    weights = (clip_folder / "open_clip_model.safetensors").read_bytes()
    (tmp_path / "open_clip_model.safetensors").write_bytes(weights[: len(weights) // 2])
    with pytest.raises(FoundationError, match="encoder"):
        load_foundation(profile(clip=tmp_path))


def test_pickled_weights_are_never_opened(diffusion_folder: Path, tmp_path: Path) -> None:
    for folder in diffusion_folder.iterdir():
        if folder.name != "unet":
            (tmp_path / folder.name).symlink_to(folder)
    (tmp_path / "unet").mkdir()
    (tmp_path / "unet" / "config.json").write_bytes((diffusion_folder / "unet" / "config.json").read_bytes())
    weights = safetensors.torch.load_file(diffusion_folder / "unet" / "diffusion_pytorch_model.safetensors")
    torch.save(weights, tmp_path / "unet" / "diffusion_pytorch_model.bin")
    with pytest.raises(FoundationError):
        load_foundation(profile(diffusion=tmp_path))


def test_a_level_the_encoder_does_not_have_is_refused() -> None:
    with pytest.raises(FoundationError, match="level 7 does not exist"):
        load_foundation(profile(levels=(2, 7)))


def test_a_device_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("O2N_DEVICE", "cuda:99")
    with pytest.raises(FoundationError, match="O2N_DEVICE"):
        pick_device()
