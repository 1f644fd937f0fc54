"""References -> a LoRA adapter: the anomaly-free customised model (eq. 1).

The adapter is a file in diffusers' own layout (`pytorch_lora_weights.safetensors`, rank and alpha in its metadata),
so any diffusers program can load it.
"""

import json
import math
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import safetensors.torch
import torch
import torch.nn.functional as F
from diffusers import DDIMScheduler
from diffusers.loaders.lora_base import LORA_ADAPTER_METADATA_KEY
from peft import LoraConfig
from peft.tuners.lora import LoraLayer
from peft.utils import get_peft_model_state_dict
from torch import Tensor, nn
from torch.nn.attention import sdpa_kernel
from torchvision.transforms import v2

from o2n.data.defects import TRAINING_DEFECTS
from o2n.data.procedural import spoil_photographs
from o2n.errors import FoundationError, IntegrityError, cause_of
from o2n.graphs import training_step
from o2n.images import Picture
from o2n.mixture import lora_layers
from o2n.models import SOUND_ATTENTION, DiffusionModel
from o2n.profiles import CustomisationSettings
from o2n.prompts import class_prompt, instance_prompt
from o2n.text_adapter import TEXT_MODULES, TextLora, fresh_lora, from_file, read_with, to_file

SPOILT_UP_TO = 0.2  # largest t of pictures with a made-up defect: queries, which it is learned for, are noised less
IN_DEFECT = 20.0  # how much more an error counts there: on the validation families 10 took less away, 40 kept less

SAVE_EVERY = 50

_TRAINING = "o2n_training"

# Adapters come and go here, many at a time, which peft takes for a mistake.
warnings.filterwarnings("ignore", "Already found a `peft_config`", module="peft")
warnings.filterwarnings("ignore", ".* was active which is now deleted", module="peft")

_Batch = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]  # x0 to weight, as `_denoising_losses` has them

# What the device is to blame for, never a file: a full GPU, and one that has failed.
_DEVICE_ERRORS = (torch.OutOfMemoryError, torch.AcceleratorError)


def customize(
    model: DiffusionModel,
    references: list[Picture],
    prior: list[Picture],
    object_word: str,
    settings: CustomisationSettings,
    seed: int,
    on_step: Callable[[int, float], None] = lambda step, loss: None,
    so_far: bytes | None = None,
    save: Callable[[bytes], None] | None = None,
) -> bytes:
    """DreamBooth with LoRA on layers of the UNet, and in some profiles on the text encoder: minimise eq. (1) over the
    references and the class prior.

    The paper writes the loss on x_0; a model that predicts the noise or the velocity is trained on that, which is
    the same objective with another weight per timestep (Salimans & Ho, 2022, appendix D).

    Beyond the paper, `settings.spoilt` of the references are noised with a made-up defect and yet have the flawless
    reference as their x_0: so the adapter learns what of this category to put back, not only what it looks like. Where
    the defect is an error counts `1 + IN_DEFECT` times: it covers little, and leaving it there would cost next to
    nothing.

    Args:
        references: normal pictures, uint8 (H, W, 3) of one size.
        prior: pictures of the class drawn from the base model, of one size too; may be empty.
        on_step: called after every step with its number, from 1, and its loss.
        so_far: what `save` was given last by a run with the same arguments that was stopped; this one goes on there.
        save: called every `SAVE_EVERY` steps with all that is needed to go on.

    Raises:
        FoundationError: the loss is no number any more; or the UNet lacks one of `settings.target_modules`.

    Returns:
        The adapter file. The same arguments give the same bytes on the same machine and thread count.
    """
    read = [instance_prompt(object_word, settings.prompt), class_prompt(object_word)]
    # Where they are not trained, as queries' prompts are read: in full precision, whatever the training takes.
    instance_text, class_text = model.embed(read).clone().split(1)
    with (
        torch.random.fork_rng(devices=[]),
        _training_adapter(model, settings, seed) as parameters,
        training_step(model, record=not settings.checkpointing) as predict,
    ):
        views = _augment(references, settings.augmentations)
        instances = _latents(model, views)
        even = instances.new_ones(len(instances), 1, *instances.shape[-2:])
        spoilt, weights = _spoilt(model, views, seed) if settings.spoilt > 0 else (instances, even)
        priors = _latents(model, prior) if prior else None
        lora = fresh_lora(model.text_encoder, settings.rank) if settings.text_encoder else {}
        parameters += [weight for pair in lora.values() for weight in pair]
        tokens = model.tokenize(read).to(model.device)
        optimizer = torch.optim.AdamW(parameters, lr=settings.learning_rate)
        done = _resume(so_far, parameters, optimizer) if so_far else 0
        for step in range(done + 1, settings.steps + 1):
            rows = torch.randint(len(instances), (settings.batch,))
            with_defect = torch.rand(settings.batch) < settings.spoilt
            if lora:
                scaling = settings.lora_alpha / settings.rank
                instance_text, class_text = read_with(model.text_encoder, lora, scaling, tokens).split(1)
            x0, text = instances[rows], instance_text.expand(settings.batch, -1, -1)
            chosen = with_defect.view(-1, 1, 1, 1).to(model.device)
            shown, weight = torch.where(chosen, spoilt[rows], x0), torch.where(chosen, weights[rows], even[rows])
            t = torch.rand(settings.batch) * torch.where(with_defect, SPOILT_UP_TO, 1.0)
            own: _Batch = (x0, text, shown, t, torch.randn(x0.shape), weight)
            class_prior: _Batch | None = None
            if priors is not None and settings.prior_weight > 0:
                drawn = priors[torch.randint(len(priors), (settings.batch,))]
                of_class = class_text.expand_as(text)
                at = torch.rand(settings.batch)
                class_prior = (drawn, of_class, drawn, at, torch.randn(x0.shape), even[rows])
            loss = _loss(model.noising, predict, own, class_prior, settings.prior_weight)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            told = loss.item()
            del loss  # what was recorded is freed at the end of the block, if nothing made by it is left
            if not math.isfinite(told):
                raise FoundationError(
                    f"customising on {object_word!r} has failed: after {step} steps its loss is {told}: lower the "
                    f"learning rate of {settings.learning_rate:g} in the profile's customisation"
                )
            on_step(step, told)
            if save is not None and step % SAVE_EVERY == 0 and step < settings.steps:
                save(_state(step, parameters, optimizer))
        return _adapter_file(model, settings, lora)


def read_adapter(data: bytes) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The adapter file `data` -> its metadata (rank, alpha, target modules), and weights by their names in the UNet.

    Raises:
        IntegrityError: not an adapter file.
    """
    metadata, tensors = _read(data)
    return metadata, {key.removeprefix("unet."): one for key, one in tensors.items() if key.startswith("unet.")}


def read_text_lora(model: DiffusionModel, data: bytes) -> TextLora:
    """What the adapter file `data` has for the text encoder, for `DiffusionModel.embed`; often nothing.

    Raises:
        IntegrityError: not an adapter file, or one made for another text encoder.
    """
    metadata, tensors = _read(data)
    try:
        scaling = metadata.get("text_encoder.lora_alpha", 1) / metadata.get("text_encoder.r", 1)
        return from_file(tensors, model.text_encoder, scaling)
    except _DEVICE_ERRORS:
        raise
    except Exception as error:  # a file that does not fit may be wrong in its numbers, their kinds or their shapes
        raise IntegrityError(f"an adapter does not fit this text encoder ({error}): onboard again") from error


def _read(data: bytes) -> tuple[dict[str, Any], dict[str, Tensor]]:
    try:
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
        return json.loads(header["__metadata__"][LORA_ADAPTER_METADATA_KEY]), safetensors.torch.load(data)
    except Exception as error:  # safetensors raises its own kind, and json, key and type errors
        raise IntegrityError(
            f"these {len(data)} bytes are no adapter file ({cause_of(error)}): onboard again"
        ) from error


def load_adapter(model: DiffusionModel, name: str, data: bytes) -> None:
    """Put the adapter file `data` into the UNet under `name`, beside those already there, and what it has for the text
    encoder into `model.text_loras`.

    Raises:
        IntegrityError: not an adapter file, or one made for another UNet. What torch raises of a GPU that is full or
            has failed comes as it is.
    """
    metadata, weights = read_adapter(data)
    text_lora = read_text_lora(model, data)
    try:
        prefixed = {f"unet.{key}": tensor for key, tensor in weights.items()}
        model.unet.load_lora_adapter(prefixed, prefix="unet", adapter_name=name, metadata=metadata)
        for layer in lora_layers(model.unet):
            for part in (layer.lora_A, layer.lora_B):
                if name in part:
                    part[name].to(model.unet.conv_in.weight.dtype)  # peft holds it in float32, whatever it is added to
    except _DEVICE_ERRORS:
        unload_adapter(model, name)  # half of it may be there, and its name taken
        raise
    except Exception as error:  # diffusers and peft raise many kinds on a file that does not fit
        raise IntegrityError(
            f"adapter {name}: does not fit this diffusion model ({cause_of(error)}): onboard again"
        ) from error
    model.unet.eval().requires_grad_(False)
    model.text_loras[name] = text_lora


def unload_adapter(model: DiffusionModel, name: str) -> None:
    """Take the adapter `name` out of the UNet and free its memory."""
    model.text_loras.pop(name, None)
    model.unet.delete_adapters(name)
    model.unet.requires_grad_(False)  # peft makes another adapter active in its place, and trainable


@contextmanager
def adapter_loaded(model: DiffusionModel, name: str, data: bytes) -> Iterator[str]:
    """The adapter file `data` in the UNet for as long as the block lasts; its `name`. Raises as `load_adapter`."""
    load_adapter(model, name, data)
    try:
        yield name
    finally:
        unload_adapter(model, name)


@contextmanager
def _training_adapter(model: DiffusionModel, settings: CustomisationSettings, seed: int) -> Iterator[list[Tensor]]:
    """A fresh adapter in the UNet, its parameters in float32 whatever the UNet computes in, and what saves memory."""
    _check_layers(model.unet, settings)
    torch.manual_seed(seed)
    config = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.lora_alpha,
        target_modules=list(settings.target_modules),
        init_lora_weights="gaussian",
    )
    model.unet.add_adapter(config, adapter_name=_TRAINING)
    model.unet.set_adapter(_TRAINING)
    parameters: list[Tensor] = [parameter for parameter in model.unet.parameters() if parameter.requires_grad]
    for parameter in parameters:
        parameter.data = parameter.data.float()  # steps of 1e-4 are lost in bfloat16
    half = model.unet.conv_in.weight.dtype == torch.bfloat16
    if settings.checkpointing:
        model.unet.enable_gradient_checkpointing()
        model.unet.train()  # checkpoints are kept in training alone; the UNet has no dropout to switch on
    try:
        # A graph cannot hold weights that were cast before it was recorded.
        half_products = torch.autocast(model.device.type, torch.bfloat16, enabled=half, cache_enabled=False)
        with half_products, sdpa_kernel(SOUND_ATTENTION):
            yield parameters
    finally:
        if settings.checkpointing:
            model.unet.disable_gradient_checkpointing()
            model.unet.eval()
        unload_adapter(model, _TRAINING)


def _check_layers(unet: nn.Module, settings: CustomisationSettings) -> None:
    """Before peft, which passes over a name that no layer has, and leaves the UNet half changed where none has any."""
    able = [name for name, layer in unet.named_modules() if isinstance(layer, (nn.Linear, nn.Conv2d, LoraLayer))]
    for wanted in settings.target_modules:
        if not any(name == wanted or name.endswith(f".{wanted}") for name in able):
            raise FoundationError(
                f"customisation.target_modules of the profile: the UNet has no linear layer and no convolution whose "
                f"name ends with {wanted}: name another"
            )


def _state(step: int, parameters: list[Tensor], optimizer: torch.optim.AdamW) -> bytes:
    """All that the steps to come depend on, chance included."""
    tensors = {"step": torch.tensor(step), "chance": torch.get_rng_state()}
    for row, parameter in enumerate(parameters):
        moments = optimizer.state[parameter]
        tensors |= {
            f"{row}.value": parameter,
            f"{row}.mean": moments["exp_avg"],
            f"{row}.square": moments["exp_avg_sq"],
        }
    return safetensors.torch.save({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()})


@torch.no_grad()
def _resume(so_far: bytes, parameters: list[Tensor], optimizer: torch.optim.AdamW) -> int:
    """Put a `_state` back. Returns its step; 0 where it is damaged or another run's: then all steps are to be taken."""
    try:
        tensors = safetensors.torch.load(so_far)
        values = [[tensors[f"{row}.{part}"] for part in ("value", "mean", "square")] for row in range(len(parameters))]
        if any(value.shape != p.shape for each, p in zip(values, parameters, strict=True) for value in each):
            return 0
        chance, step = tensors["chance"], int(tensors["step"])
    except Exception:  # safetensors raises its own kind, and key and type errors
        return 0
    for parameter, (value, mean, square) in zip(parameters, values, strict=True):
        parameter.copy_(value)
        optimizer.state[parameter] = {
            "step": torch.tensor(float(step)),
            "exp_avg": mean.to(parameter),
            "exp_avg_sq": square.to(parameter),
        }
    torch.set_rng_state(chance)
    return step


def _augment(references: list[Picture], copies: int) -> list[Picture]:
    """Each reference itself and `copies - 1` slightly different views of it; no view shows what no reference shows."""
    side = references[0].shape[0]
    view = v2.Compose(
        [
            v2.RandomResizedCrop(side, scale=(0.8, 1.0), ratio=(0.95, 1.05), antialias=True),
            v2.ColorJitter(brightness=0.1, contrast=0.1),
        ]
    )
    pictures = torch.stack([torch.from_numpy(reference.copy()).permute(2, 0, 1) for reference in references])
    views = [torch.stack([view(picture) for picture in pictures]) for _ in range(copies - 1)]
    return list(torch.cat([pictures, *views]).permute(0, 2, 3, 1).contiguous().numpy())


def _latents(model: DiffusionModel, pictures: list[Picture]) -> Tensor:
    return torch.cat([model.encode([picture]) for picture in pictures]).clone()


def _spoilt(model: DiffusionModel, views: list[Picture], seed: int) -> tuple[Tensor, Tensor]:
    """The same views with a defect each, of the kinds that need no knowledge of what is shown: their latents, float32
    (N, C, h, w), and how much an error counts at each place of them, (N, 1, h, w)."""
    pictures, masks = spoil_photographs(np.stack(views), seed, TRAINING_DEFECTS)
    latents = _latents(model, list(pictures))
    touched = F.adaptive_max_pool2d(torch.from_numpy(masks)[:, None].float(), latents.shape[-2:])
    return latents, (1 + IN_DEFECT * touched).to(latents)


def _loss(
    scheduler: DDIMScheduler,
    predict: Callable[[Tensor, Tensor, Tensor], Tensor],
    own: _Batch,
    class_prior: _Batch | None,
    prior_weight: float,
) -> Tensor:
    """Own + λ · prior, eq. (1): the mean error over the references' batch, and over the class prior's, if there is one.

    Args: own, class_prior: x0 to weight of `_denoising_losses`, of B pictures each.
    Returns: float32 ().
    """
    if class_prior is None:
        return _denoising_losses(scheduler, predict, *own).mean()
    # Both terms in one batch: a GPU is as fast with it as with either.
    both = [torch.cat(pair) for pair in zip(own, class_prior, strict=True)]
    of_own, of_prior = _denoising_losses(scheduler, predict, *both).chunk(2)
    return of_own.mean() + prior_weight * of_prior.mean()


def _denoising_losses(
    scheduler: DDIMScheduler,
    predict: Callable[[Tensor, Tensor, Tensor], Tensor],
    x0: Tensor,
    text: Tensor,
    shown: Tensor,
    t: Tensor,
    noise: Tensor,
    weight: Tensor,
) -> Tensor:
    """The errors in denoising `shown` to x0; their mean over eps and t is a term of eq. (1), where both are the same
    and every place counts the same.

    Args: x0, shown, noise: (B, C, h, w); text: (B, tokens, width); t: (B,) in [0, 1); weight: (B, 1, h, w), how much
        an error counts at each place.
    Returns: (B,).
    """
    at, eps = (t * scheduler.config.num_train_timesteps).long().to(x0.device), noise.to(x0.device)
    noised = scheduler.add_noise(shown, eps, at)
    alpha = scheduler.alphas_cumprod.to(x0.device)[at].view(-1, 1, 1, 1)
    # The noise that would have made `noised` of x0.
    eps = eps + (alpha / (1 - alpha)).sqrt() * (shown - x0)
    prediction = predict(noised, at, text)
    targets: dict[str, Callable[[], Tensor]] = {
        "epsilon": lambda: eps,
        "sample": lambda: x0,
        "v_prediction": lambda: scheduler.get_velocity(x0, eps, at),
    }
    errors = (prediction - targets[scheduler.config.prediction_type]()).square()
    return (weight * errors).mean(dim=(1, 2, 3))


def _adapter_file(model: DiffusionModel, settings: CustomisationSettings, lora: TextLora) -> bytes:
    weights = get_peft_model_state_dict(model.unet, adapter_name=_TRAINING)
    metadata: dict[str, Any] = {}
    for part, layers in (("unet", list(settings.target_modules)), ("text_encoder", TEXT_MODULES)):
        if part == "unet" or lora:
            metadata |= {f"{part}.r": settings.rank, f"{part}.lora_alpha": settings.lora_alpha}
            metadata[f"{part}.target_modules"] = layers
    of_unet = {f"unet.{key}": weights[key].detach().cpu().contiguous() for key in sorted(weights)}
    return safetensors.torch.save(
        {**of_unet, **to_file(lora)},
        # One key only: safetensors writes several in no fixed order, and equal adapters must be equal bytes.
        metadata={LORA_ADAPTER_METADATA_KEY: json.dumps(metadata, sort_keys=True)},
    )
