"""Models from every kind of source. Directories are small models saved in the hub's own file layout."""

import shutil
from pathlib import Path

import numpy as np
import open_clip
import pytest
import safetensors.torch
import timm
import torch
from diffusers import AutoencoderTiny
from huggingface_hub.utils import http_backoff
from timm.models import save_for_hf

from infra.local.cluster import free_port
from o2n.errors import FoundationError
from o2n.foundation import EMBEDDED, Foundation, _with_told, load_foundation, load_from
from o2n.hub import wanted
from o2n.mixture import BASE
from o2n.models import to_pictures, weights_digest
from o2n.personalize import redraw, seeded_noise
from o2n.profiles import TINY, EncoderSettings, Profile
from o2n.tiny.weights import FILES
from tests.helpers import checks


def profile(clip: Path | str = "embedded", diffusion: Path | str = "embedded", **change: object) -> Profile:
    return TINY.model_copy(
        update={
            "encoder": TINY.encoder.model_copy(update={"source": str(clip)} | change),
            "diffusion": TINY.diffusion.model_copy(update={"source": str(diffusion)}),
        }
    )


def test_the_embedded_models_are_the_same_in_every_process() -> None:
    first = load_from(TINY, EMBEDDED).identity
    torch.manual_seed(99)
    assert load_from(TINY, EMBEDDED).identity == first


def test_building_from_a_seed_leaves_the_random_state_alone() -> None:
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    load_from(TINY, EMBEDDED)
    assert torch.equal(torch.rand(2), expected)


def test_profiles_that_are_made_of_the_same_models_share_them() -> None:
    def customised(**change: object) -> Profile:
        return TINY.model_copy(update={"customisation": TINY.customisation.model_copy(update=change)})

    own = load_foundation(TINY)
    same = {"name": "other", "seed": 5, "t": 0.4, "pool": TINY.pool.model_copy(update={"pictures": 3})}
    for other in (TINY.model_copy(update=same), customised(steps=7, text_encoder=True)):
        found = load_foundation(other)
        assert (found.clip, found.comparing, found.diffusion) == (own.clip, own.comparing, own.diffusion)
        assert found.profile == other
    # Of another encoder, and of adapters that could not take each other's place in one UNet.
    for other in (profile(levels=(2, 3)), customised(rank=2)):
        assert load_foundation(other).diffusion is not own.diffusion


def test_an_identity_is_of_all_that_a_source_tells(clip_folder: Path, diffusion_folder: Path, tmp_path: Path) -> None:
    models = load_foundation(profile(clip_folder, diffusion_folder))

    def changed(source: Path, file: str, old: str, new: str) -> Path:
        folder = tmp_path / f"{len(list(tmp_path.iterdir()))}"
        shutil.copytree(source, folder)
        text = (folder / file).read_text()
        assert old in text
        (folder / file).write_text(text.replace(old, new))
        return folder

    mean = changed(clip_folder, "open_clip_config.json", '"mean": [0.48', '"mean": [0.58')
    schedule = changed(diffusion_folder, "scheduler/scheduler_config.json", '"steps_offset": 1', '"steps_offset": 0')
    scaling = changed(diffusion_folder, "vae/config.json", '"scaling_factor": 0.5', '"scaling_factor": 0.25')
    tokens = changed(
        diffusion_folder, "tokenizer/tokenizer_config.json", '"pad_token": "<|endoftext|>"', '"pad_token": "!"'
    )
    heads = changed(diffusion_folder, "unet/config.json", '"attention_head_dim": 2', '"attention_head_dim": 4')
    activation = changed(diffusion_folder, "text_encoder/config.json", '"quick_gelu"', '"gelu"')
    louder = changed(clip_folder, "open_clip_config.json", '"vision_cfg": {', '"quick_gelu": true, "vision_cfg": {')
    found = {
        *(load_foundation(profile(folder, diffusion_folder)).identity for folder in (mean, louder)),
        *(
            load_foundation(profile(clip_folder, folder)).identity
            for folder in (schedule, scaling, tokens, heads, activation)
        ),
    }
    assert len(found | {models.identity}) == 8
    moved = shutil.copytree(diffusion_folder, tmp_path / "moved")
    assert load_foundation(profile(clip_folder, moved)).identity == models.identity


def test_an_identity_is_of_the_model_that_takes_the_weights_too() -> None:
    """OpenAI's weights fit two models of open_clip: versions of one are no versions of the other."""
    own = load_foundation(TINY)

    def identity(source: str) -> str:
        encoder = TINY.encoder.model_copy(update={"source": source})
        return _with_told("w", TINY.model_copy(update={"encoder": encoder}), own.clip, own.clip, own.diffusion)

    assert identity("ViT-L-14@openai") != identity("ViT-L-14-quickgelu@openai")


def test_the_identity_of_the_embedded_models_is_that_of_their_weights() -> None:
    """All versions of `tiny` bear it."""
    loaded = load_from(TINY, EMBEDDED)  # no adapter has ever been in its UNet
    assert loaded.clip.maps is not None
    parts = [loaded.clip.model, loaded.clip.maps, loaded.diffusion.unet, loaded.diffusion.text_encoder]
    assert loaded.identity == weights_digest(parts)


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


def test_a_clip_without_weights_is_refused(clip_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "open_clip_config.json").write_bytes((clip_folder / "open_clip_config.json").read_bytes())
    for source in (tmp_path, "ViT-B-32"):
        with pytest.raises(FoundationError, match=rf"the encoder '{source}' cannot be loaded \(Required pretrained"):
            load_foundation(profile(clip=source))


@pytest.mark.parametrize("folder", ["/no/such/folder", "./here", "models/clip", "~/models/clip"])
def test_a_directory_that_is_not_there_is_told(folder: str) -> None:
    with pytest.raises(FoundationError, match=rf"the encoder '{folder}' cannot be loaded \(there is no directory"):
        load_foundation(profile(clip=folder))
    if folder != "models/clip":  # which a hub could have, as a diffusion model
        with pytest.raises(FoundationError, match=rf"the diffusion model '{folder}' cannot .* no directory {folder}\)"):
            load_foundation(profile(diffusion=folder))
        with pytest.raises(FoundationError, match=f"there is no directory {folder}"):
            wanted(profile(diffusion=folder))


def test_a_hub_that_cannot_be_reached_is_told_once_and_what_to_do(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def unreachable(*arguments: object, **options: object) -> None:
        http_backoff("HEAD", f"http://127.0.0.1:{free_port()}/", max_retries=2, base_wait_time=0)

    monkeypatch.setattr(open_clip, "create_model", unreachable)
    with pytest.raises(FoundationError, match=r"refused.*'o2n models pull'.* set O2N_MODELS to its folder$"):
        load_from(profile(clip="ViT-B-32@openai"), EMBEDDED)
    assert caplog.messages == []
    with pytest.raises(Exception, match="refused"):
        unreachable()
    assert "Retrying" in caplog.text  # what was kept from being heard, and is again


def without(source: Path, folder: Path, part: str, lost: str, **renamed: str) -> Path:
    """A copy of a model in `folder` whose file of `part` lacks the weight `lost`, its other weights renamed."""
    shutil.copytree(source, folder)
    (file,) = (folder / part).glob("*.safetensors")
    weights = safetensors.torch.load_file(file)
    weights.pop(lost, None)
    for old, new in renamed.items():
        weights = {name.replace(old, new): tensor for name, tensor in weights.items()}
    safetensors.torch.save_file(weights, file, {"format": "pt"})
    return folder


@pytest.mark.parametrize(
    ("part", "lost"),
    [("unet", "conv_in.weight"), ("text_encoder", "final_layer_norm.bias"), ("vae", "decoder.conv_out.bias")],
)
def test_a_part_that_lacks_a_weight_is_refused(diffusion_folder: Path, tmp_path: Path, part: str, lost: str) -> None:
    (file,) = (diffusion_folder / part).glob("*.safetensors")
    (name,) = (name for name in safetensors.torch.load_file(file) if name.endswith(lost))
    broken = without(diffusion_folder, tmp_path / "model", part, name)
    with pytest.raises(FoundationError, match=rf"the weights of its {part} lack \S*{lost}\)") as refused:
        load_foundation(profile(diffusion=broken))
    assert "\n" not in str(refused.value)


def test_a_small_autoencoder_that_lacks_a_weight_is_refused(diffusion_folder: Path, tmp_path: Path) -> None:
    AutoencoderTiny().save_pretrained(tmp_path / "small")
    broken = without(tmp_path / "small", tmp_path / "broken", "", "decoder.layers.0.weight")
    with pytest.raises(FoundationError, match=r"small_vae lack decoder\.layers\.0\.weight"):
        load_foundation(with_small_vae(profile(diffusion=diffusion_folder), broken))


def with_small_vae(of: Profile, folder: Path) -> Profile:
    return of.model_copy(update={"diffusion": of.diffusion.model_copy(update={"small_vae": str(folder)})})


def test_an_autoencoder_with_the_names_of_before_is_whole(diffusion_folder: Path, tmp_path: Path) -> None:
    """As Stable Diffusion 1.5 has them."""
    old = {"to_q.": "query.", "to_k.": "key.", "to_v.": "value.", "to_out.0.": "proj_attn."}
    renamed = without(diffusion_folder, tmp_path / "model", "vae", "", **old)
    ours, theirs = (load_foundation(profile(diffusion=folder)) for folder in (renamed, diffusion_folder))
    assert ours.identity == theirs.identity


def test_a_vision_transformer_that_lacks_a_weight_is_refused(tmp_path: Path) -> None:
    """Also one that knows classes, which nobody asks it for here."""
    small = {"img_size": 28, "embed_dim": 24, "depth": 2, "num_heads": 2}
    model = timm.create_model("vit_small_patch14_dinov2", num_classes=10, **small)
    save_for_hf(model, tmp_path / "whole", model_args=small, safe_serialization=True)
    broken = without(tmp_path / "whole", tmp_path / "broken", "", "blocks.1.attn.qkv.weight")

    def load(folder: Path) -> Foundation:
        encoder = EncoderSettings(source=str(folder), resolution=28, levels=(1, 2))
        return load_foundation(TINY.model_copy(update={"patch_encoder": encoder}))

    assert load(tmp_path / "whole").comparing.model.num_classes == 0
    with pytest.raises(FoundationError, match=r"blocks\.1\.attn\.qkv\.weight"):
        load(broken)


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


def test_that_texts_are_read_without_trained_maps_is_told(caplog: pytest.LogCaptureFixture) -> None:
    load_from(TINY, EMBEDDED)
    assert caplog.messages == []
    load_from(profile(levels=(1, 3)), EMBEDDED)
    assert caplog.messages == ["encoder embedded has no trained linear maps for S_text: its own projection serves"]
