"""A profile -> its models: one CLIP, if need be another encoder for S_P and S_N, and one text-conditional diffusion
model. Knows no category.

Sources are the embedded `tiny` models, a directory in the hub's own layout, or the hub; all three end in the same
classes (open_clip's `CLIP`; timm's `VisionTransformer` and `Eva`; diffusers' `UNet2DConditionModel`, `AutoencoderKL`
and `DDIMScheduler`).
"""

import functools
import hashlib
import json
import logging
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import open_clip
import safetensors.torch
import timm
import torch
from diffusers import AutoencoderKL, AutoencoderTiny, DDIMScheduler, UNet2DConditionModel
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from o2n.device import pick_device
from o2n.errors import FoundationError
from o2n.hub import TIMM, pinned, pulled
from o2n.models import ClipModel, DiffusionModel, LinearMaps, Tokenizer, VisionModel, weights_digest
from o2n.profiles import EMBEDDED_LEVELS, TINY, DiffusionSettings, EncoderSettings, Profile
from o2n.text_map import MapCard, read_map

EMBEDDED = Path(__file__).parent / "tiny"

# What tokenizers are told apart by: another vocabulary has other numbers for it.
READ = "a photo of a damaged hex bolt with flaw, 0123456789."

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Foundation:
    """The models of a profile on one device, and `identity`: which weights these are, down to the last bit, and how
    they are used.

    `comparing` is the encoder of S_P and S_N: `clip` itself, where the profile names no other. `text_map` is the card
    of the linear maps in `clip`, where they come from a file.
    """

    profile: Profile
    clip: ClipModel
    comparing: VisionModel
    diffusion: DiffusionModel
    identity: str
    text_map: MapCard | None = None

    @property
    def models(self) -> dict[str, nn.Module]:
        """Whatever has weights, by the name that people know it by."""
        return _models(self.clip, self.comparing, self.diffusion)


def load_foundation(profile: Profile) -> Foundation:
    """The models of `profile`, loaded once per process for all profiles that are made of the same.

    Raises:
        FoundationError: a source that is missing, incomplete or not what it should be.
    """
    made_of = {field: getattr(profile, field) for field in ("encoder", "patch_encoder", "diffusion", "text_map")}
    # Adapters of two forms cannot take each other's place in one UNet.
    form = {field: getattr(profile.customisation, field) for field in ("rank", "lora_alpha")}
    only_these = TINY.model_copy(update={**made_of, "customisation": TINY.customisation.model_copy(update=form)})
    models = _loaded(only_these, pick_device())
    return replace(models, profile=profile)


@functools.cache
def _loaded(profile: Profile, device: torch.device) -> Foundation:
    return load_from(profile, EMBEDDED, device)


@contextmanager
def _hub_unheard() -> Iterator[None]:
    """Where there is no network, the hub's client warns of every attempt, dozens of times; the error says it once."""
    log = logging.getLogger("huggingface_hub")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(level)


@_hub_unheard()
def load_from(profile: Profile, weights: Path | None, device: torch.device | None = None) -> Foundation:
    """The same, loaded anew, with the embedded models' weights from the folder `weights`; without one they are as
    before any training, built from a fixed seed. device: that of `pick_device` if not given."""
    device = device or pick_device()
    clip, card = _load_clip(profile.encoder, device, weights), None
    if profile.text_map:
        clip, card = _with_map(clip, Path(profile.text_map), profile.encoder)
    elif clip.maps is None:
        logger.warning(
            "encoder %s has no trained linear maps for S_text: its own projection serves", profile.encoder.source
        )
    comparing = _load_vision(profile.patch_encoder, device) if profile.patch_encoder else clip
    diffusion = _load_diffusion(profile.diffusion, device, weights)
    for field, model, settings in (("encoder", clip, profile.encoder), ("patch_encoder", comparing, profile.comparing)):
        if bad := [level for level in settings.levels if not 1 <= level <= model.depth]:
            raise FoundationError(
                f"level {bad[0]} does not exist, the encoder {settings.source!r} has {model.depth} blocks: "
                f"correct the profile's {field}.levels"
            )
    # Of the weights as they come, whatever this device computes in.
    digest = weights_digest(_models(clip, comparing, diffusion).values())
    identity = _with_told(digest, profile, clip, comparing, diffusion)
    if device.type == "cuda":
        # Convolutions on tensor cores want their channels last, and half the bits where the profile allows it.
        form = {"memory_format": torch.channels_last, "dtype": getattr(torch, profile.diffusion.gpu_precision)}
        for part in (diffusion.unet, diffusion.vae):
            if part is not None:
                part.to(**form)
        for model, settings in ((clip, profile.encoder), (comparing, profile.comparing)):
            model.seeing.to(getattr(torch, settings.gpu_precision))
    return Foundation(profile, clip, comparing, diffusion, identity, card)


def _models(clip: ClipModel, comparing: VisionModel, diffusion: DiffusionModel) -> dict[str, nn.Module]:
    return {
        "encoder": clip.model,
        **({"linear maps": clip.maps} if clip.maps else {}),
        **({"patch encoder": comparing.model} if comparing is not clip else {}),
        "UNet": diffusion.unet,
        "text encoder": diffusion.text_encoder,
        **({"autoencoder": diffusion.vae} if diffusion.vae else {}),
    }


def _with_told(
    weights: str, profile: Profile, clip: ClipModel, comparing: VisionModel, diffusion: DiffusionModel
) -> str:
    """The digest of the weights, and of what sources tell beside them that counts: heads and activations, how pictures
    are normalised, how texts are read, how the noise is scheduled. What is embedded tells nothing that could be
    otherwise."""
    told: list[object] = []
    if profile.encoder.source != "embedded":
        told.append(clip.tokenize([READ]).tolist())
        if Path(profile.encoder.source).is_dir():
            told.append(json.loads(Path(profile.encoder.source, "open_clip_config.json").read_text())["model_cfg"])
        else:  # MODEL of MODEL@WEIGHTS: two of them may take the same weights, with other activations
            told.append(open_clip.get_model_config(profile.encoder.source.partition("@")[0]))
    for model, settings in ((clip, profile.encoder), (comparing, profile.comparing)):
        if settings.source != "embedded":
            told.append([model.mean.flatten().tolist(), model.std.flatten().tolist()])
    if profile.diffusion.source != "embedded":
        text = diffusion.text_encoder.config
        told += [
            diffusion.tokenize([READ]).tolist(),
            [text.num_attention_heads, text.hidden_act, text.layer_norm_eps],
            *(_written(part.config) for part in (diffusion.unet, diffusion.vae) if part is not None),
            _written(diffusion.scheduler_config),
        ]
    if not told:
        return weights
    return hashlib.sha256((weights + json.dumps(told, sort_keys=True)).encode()).hexdigest()[:16]


def _written(config: Mapping[str, object]) -> dict[str, object]:
    """What a source's own file says: not what the library adds, of which its next version has more."""
    added = cast(Sequence[str], config.get("_use_default_values", ()))
    return {name: value for name, value in config.items() if not name.startswith("_") and name not in added}


def _load_clip(settings: EncoderSettings, device: torch.device, weights: Path | None) -> ClipModel:
    source = settings.source
    maps = None
    try:
        if source == "embedded":
            config = json.loads((EMBEDDED / "clip" / "open_clip_config.json").read_text())["model_cfg"]
            model = _embedded(lambda: open_clip.CLIP(**config, output_dict=False), weights, "clip/open_clip_model")
            width, embed_dim = config["vision_cfg"]["width"], config["embed_dim"]
            if settings.levels == EMBEDDED_LEVELS:
                maps = _embedded(
                    lambda: LinearMaps(len(EMBEDDED_LEVELS), width, embed_dim), weights, "clip/linear_maps"
                )
            tokenize = open_clip.get_tokenizer("ViT-B-32", context_length=config["text_cfg"]["context_length"])
        elif Path(source).is_dir():
            name = f"local-dir:{Path(source).resolve()}"
            model = open_clip.create_model(name, require_pretrained=True, force_image_size=settings.resolution)
            tokenize = open_clip.get_tokenizer(name)
        else:
            if "/" in source and ":" not in source:  # as no name of open_clip's has it
                raise FoundationError(f"there is no directory {source}")
            name, _, tag = source.partition("@")
            folder = pulled(source, settings.revision) or pinned(settings)
            weights_of = str(folder / "open_clip_model.safetensors") if folder else tag
            model = open_clip.create_model(
                name, pretrained=weights_of, require_pretrained=True, force_image_size=settings.resolution
            )
            if folder:  # then open_clip does not know whose weights they are
                model.visual.preprocess_cfg = open_clip.get_pretrained_cfg(name, tag)
            tokenize = open_clip.get_tokenizer(name)
    except Exception as error:  # open_clip, the hub and safetensors each raise their own kinds
        raise _cannot_load("encoder", source, error) from error
    preprocess = getattr(model.visual, "preprocess_cfg", None) or {}
    return ClipModel(
        _frozen(model, device),
        settings.resolution,
        _per_channel(preprocess.get("mean", open_clip.OPENAI_DATASET_MEAN), device),
        _per_channel(preprocess.get("std", open_clip.OPENAI_DATASET_STD), device),
        tokenize,
        weights_digest([model]),
        _frozen(maps, device) if maps else None,
    )


def _with_map(clip: ClipModel, file: Path, settings: EncoderSettings) -> tuple[ClipModel, MapCard]:
    maps, card = read_map(file)
    if (card.encoder, card.levels) != (clip.digest, settings.levels):
        raise FoundationError(
            f"text map {file} was trained for another encoder or for other levels {card.levels}: train one with "
            "jobs/train_text_map.py and this profile"
        )
    return replace(clip, maps=_frozen(maps, clip.mean.device)), card


def _load_vision(settings: EncoderSettings, device: torch.device) -> VisionModel:
    """The encoder of pictures alone: from open_clip as `_load_clip`, else from timm."""
    source = settings.source
    if not source.startswith(TIMM) and not (Path(source) / "config.json").is_file():
        return _load_clip(settings, device, EMBEDDED)
    try:
        folder = pulled(source, settings.revision) or pinned(settings)
        folder = folder or (None if source.startswith(TIMM) else Path(source))
        if folder and not (folder / "model.safetensors").is_file():
            raise FoundationError("it has no model.safetensors")
        name = f"local-dir:{folder.resolve()}" if folder else source.removeprefix(TIMM)
        model: Any = timm.create_model(name, pretrained=True, img_size=settings.resolution)
        if not hasattr(model, "blocks"):
            raise FoundationError(f"it is a {type(model).__name__} and no vision transformer")
        model.reset_classifier(0)  # made without one, timm would let any other weight be missing too
    except Exception as error:  # timm, the hub and safetensors each raise their own kinds
        raise _cannot_load("patch encoder", source, error) from error
    seen = timm.data.resolve_model_data_config(model)
    return VisionModel(
        _frozen(model, device),
        settings.resolution,
        _per_channel(seen["mean"], device),
        _per_channel(seen["std"], device),
    )


def _per_channel(values: Sequence[float], device: torch.device) -> Tensor:
    return torch.tensor(values).view(1, 3, 1, 1).to(device)


def _load_diffusion(settings: DiffusionSettings, device: torch.device, weights: Path | None) -> DiffusionModel:
    source = settings.source
    vae = None
    try:
        source = str(pulled(source, settings.revision) or source)
        if source == "embedded":
            root = EMBEDDED / "diffusion"
            unet_config = UNet2DConditionModel.load_config(root / "unet")
            unet = _embedded(
                lambda: UNet2DConditionModel.from_config(unet_config), weights, "diffusion/unet/diffusion_pytorch_model"
            )
            text_config = CLIPTextConfig.from_pretrained(root / "text_encoder")
            text_encoder = _embedded(lambda: CLIPTextModel(text_config), weights, "diffusion/text_encoder/model")
            tokenize = open_clip.get_tokenizer("ViT-B-32", context_length=text_config.max_position_embeddings)
            scheduler = DDIMScheduler.from_pretrained(root / "scheduler")
        else:
            load = functools.partial(_from_pretrained, source, settings.revision)
            unet = load(UNet2DConditionModel, "unet")
            text_encoder = load(CLIPTextModel, "text_encoder")
            tokenizer = load(CLIPTokenizer, "tokenizer")
            # transformers makes an empty tokenizer of a missing folder, and says nothing.
            if len(tokenizer) != text_encoder.config.vocab_size:
                words = f"{len(tokenizer)} tokens, its text_encoder {text_encoder.config.vocab_size}"
                raise FoundationError(f"its tokenizer has {words}")
            tokenize = _hub_tokenizer(tokenizer)
            scheduler = load(DDIMScheduler, "scheduler")
            # A model of pixels has no autoencoder; one of latents does not work without it.
            if unet.config.in_channels != 3:
                vae = load(AutoencoderKL, "vae") if settings.small_vae is None else _small_vae(settings)
    except Exception as error:  # diffusers, transformers and the hub each raise their own kinds
        raise _cannot_load("diffusion model", source, error) from error
    if device.type == "cpu":
        _pointwise_as_products(unet)
    return DiffusionModel(
        unet=_frozen(unet, device),
        text_encoder=_frozen(text_encoder, device),
        tokenize=tokenize,
        scheduler_config=dict(scheduler.config),
        vae=_frozen(vae, device) if vae else None,
        resolution=settings.resolution,
        solver=settings.solver,
    )


def _small_vae(settings: DiffusionSettings) -> Any:
    """An autoencoder distilled into a few layers, which knows the latents of the large one."""
    source, revision = str(settings.small_vae), settings.small_vae_revision
    source = str(pulled(source, revision) or source)
    return _whole(AutoencoderTiny, source, "small_vae", **_of_commit(source, revision))


def _of_commit(source: str, revision: str | None) -> dict[str, Any]:
    return {} if Path(source).is_dir() else {"revision": revision}


def _from_pretrained(source: str, revision: str | None, kind: Any, folder: str) -> Any:
    options = {"subfolder": folder, **_of_commit(source, revision)}
    if issubclass(kind, nn.Module):
        return _whole(kind, source, folder, **options)
    return kind.from_pretrained(source, **options)


def _whole(kind: Any, source: str, part: str, **options: Any) -> Any:
    """A model with all of its weights: diffusers and transformers draw at random what a file does not have."""
    model, told = kind.from_pretrained(source, use_safetensors=True, output_loading_info=True, **options)
    if missing := sorted(told["missing_keys"]):  # tied weights are not among them
        raise FoundationError(f"the weights of its {part} lack {missing[0]}")
    return model


def _hub_tokenizer(tokenizer: Any) -> Tokenizer:
    return lambda prompts: (
        tokenizer(
            prompts,
            padding="max_length",
            truncation=True,
            max_length=tokenizer.model_max_length,
            return_tensors="pt",
        ).input_ids
    )


def _cannot_load(what: str, source: str, error: Exception) -> FoundationError:
    # Torch names what is missing in its second line.
    cause = textwrap.shorten(str(error) or type(error).__name__, 200, placeholder=" …")
    return FoundationError(
        f"the {what} {source!r} cannot be loaded ({cause}): give a directory in the hub's layout, or run "
        "'o2n models pull' where the hub can be reached and set O2N_MODELS to its folder"
    )


def _embedded(build: Callable[[], Any], weights: Path | None, name: str) -> Any:
    """What `build` makes from a fixed seed, leaving the process's own random state alone; then its weights, if any."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = build()
    if weights is not None:
        model.load_state_dict(safetensors.torch.load_file(weights / f"{name}.safetensors"))
    return model


class _PointwiseConv(nn.Conv2d):
    """A convolution of 1 × 1 as the matrix product it is: torch's CPU kernel for it sums in an order that depends on
    the number of threads, and a score must not."""

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            return super().forward(x)
        product = self.weight.flatten(1) @ x.flatten(2)
        return (product if self.bias is None else product + self.bias[:, None]).unflatten(2, x.shape[2:])


def _pointwise_as_products(model: nn.Module) -> None:
    for module in model.modules():
        if (
            type(module) is nn.Conv2d
            and module.kernel_size == (1, 1)
            and module.stride == (1, 1)
            and module.groups == 1
        ):
            module.__class__ = _PointwiseConv


def _frozen(model: Any, device: torch.device) -> Any:
    return model.to(device).eval().requires_grad_(False)
