"""What both trainings share: procedural categories, checkpoints, running averages of the weights, progress."""

import ctypes
import functools
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from open_clip.tokenizer import SimpleTokenizer
from torch import Tensor, nn
from torch.nn.attention import sdpa_kernel
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from o2n.data.procedural import TRAINING, Category, Pictures, draw
from o2n.errors import O2NError, cause_of
from o2n.files import replacing
from o2n.models import SOUND_ATTENTION, Tokenizer

AVERAGE = 0.998  # decay of the running average of the weights; what is shipped is the average


TRIM_EVERY = 50  # steps

Drawn = TypeVar("Drawn")


@dataclass(frozen=True)
class TrainingPlan:
    """A training run. learning_rate falls to nothing over it, by a half cosine, after `warmup` steps.

    larger: how many times the usual batch. drawers: processes that draw pictures ahead; 0: the training's own does.
    seconds: it ends after so long, if not before; then how fast the machine is decides what comes of it.
    """

    folder: Path
    steps: int
    learning_rate: float
    seed: int
    larger: int = 1
    drawers: int = 0
    seconds: float | None = None
    warmup: int = 200

    @property
    def save_every(self) -> int:
        """Steps between checkpoints: a GPU takes so many a second that it would do little else than write them."""
        return max(200, self.steps // 20)

    @property
    def report_every(self) -> int:
        """Steps between looks at the validation families."""
        return max(500, self.steps // 4)


def categories(rng: np.random.Generator, families: tuple[str, ...], count: int) -> list[Category]:
    """`count` new categories, each of another family."""
    names = rng.choice(np.array(families), count, replace=False)
    return [Category(str(name), int(rng.integers(1 << 40))) for name in names]


def vary_category(drawn: Pictures, rng: np.random.Generator) -> Pictures:
    """The same category seen otherwise, all its pictures alike: mirrored, turned, its colours exchanged, or grey."""
    turns, mirrored, grey = int(rng.integers(4)), rng.uniform() < 0.5, rng.uniform() < 0.15
    channels = rng.permutation(3)

    def seen(array: np.ndarray) -> np.ndarray:
        array = np.rot90(array, turns, axes=(1, 2))
        array = array[:, :, ::-1] if mirrored else array
        if array.ndim == 4:
            array = array[..., channels]
            if grey:
                array = np.repeat(array.mean(axis=-1, keepdims=True).astype(np.uint8), 3, axis=-1)
        return np.ascontiguousarray(array)

    return replace(drawn, pictures=seen(drawn.pictures), twins=seen(drawn.twins), masks=seen(drawn.masks))


def to_tensor(pictures: np.ndarray, device: torch.device | None = None) -> Tensor:
    """uint8 (..., H, W, 3) -> float32 (..., 3, H, W) in [0, 1]; on the CPU, or on `device`."""
    return torch.from_numpy(pictures).to(device).movedim(-1, -3).float() / 255


def give_back_memory() -> None:
    """Have glibc return what it keeps. Batches of differing sizes break its heap into pieces that no later batch fits
    in: without this a training of 1 GB holds 20 GB after a thousand steps (man7.org, malloc_trim)."""
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "malloc_trim"):
        libc.malloc_trim(0)


@contextmanager
def plain_attention() -> Iterator[None]:
    """Within it attention without a mask is two matrix products: on a CPU a third faster for whole steps than torch's
    own fused kernel, whose backward pass is slow at 257 tokens; on a GPU the same sums as there. And what has a mask is
    left to kernels that can be trained with."""
    fused = F.scaled_dot_product_attention

    def attention(
        q: Tensor,
        k: Tensor,
        v: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        **kwargs: Any,
    ) -> Tensor:
        if attn_mask is not None or is_causal:
            return fused(q, k, v, attn_mask, dropout_p, is_causal, **kwargs)
        weights = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
        return weights.softmax(dim=-1).to(v.dtype) @ v

    F.scaled_dot_product_attention = attention  # type: ignore[assignment]
    try:
        with sdpa_kernel(SOUND_ATTENTION):
            yield
    finally:
        F.scaled_dot_product_attention = fused


def half_products(device: torch.device) -> torch.autocast:
    """Within it products are of bfloat16 where the machine can multiply such numbers; a CPU that can only imitate them
    takes many times as long as with float32, which it keeps."""
    onednn = torch.backends.mkldnn.is_available()
    able = device.type != "cpu" or (onednn and torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return torch.autocast(device.type, torch.bfloat16, enabled=able, cache_enabled=False)


class Prompts:
    """Token ids of prompts, each tokenised once."""

    def __init__(self, tokenize: Tokenizer) -> None:
        self._tokenize = tokenize
        self._known: dict[str, Tensor] = {}

    def __call__(self, prompts: list[str]) -> Tensor:
        for prompt in prompts:
            if prompt not in self._known:
                self._known[prompt] = self._tokenize([prompt])[0]
        return torch.stack([self._known[prompt] for prompt in prompts])


class Trainer:
    """Steps of AdamW over some modules, with a running average, checkpoints and a progress bar.

    A run that is started again in the same folder goes on from its last checkpoint, and draws the pictures it would
    have drawn: those of a step depend on the seed and the step alone.

    Raises:
        O2NError: there is a checkpoint, and it cannot be gone on from.
    """

    def __init__(self, modules: nn.ModuleDict, plan: TrainingPlan) -> None:
        self.modules, self.plan = modules, plan
        self.average = {name: tensor.detach().clone() for name, tensor in modules.state_dict().items()}
        decayed = [p for p in modules.parameters() if p.ndim > 1]
        plain = [p for p in modules.parameters() if p.ndim <= 1]
        groups = [{"params": decayed, "weight_decay": 0.02}, {"params": plain, "weight_decay": 0.0}]
        self.optimizer = torch.optim.AdamW(groups, lr=plan.learning_rate, betas=(0.9, 0.98), fused=True)
        self._parameters = list(modules.parameters())
        moving = [(self.average[name], t) for name, t in modules.state_dict().items() if t.is_floating_point()]
        self._averages, self._weights = zip(*moving, strict=True)
        self.step, self.seconds = 0, 0.0
        self._file = plan.folder / "checkpoint.pt"
        if self._file.exists():
            self._go_on()

    def rounds(self, draw: Callable[[np.random.Generator], Drawn]) -> Iterator[tuple[int, np.random.Generator, Drawn]]:
        """The steps still to do: their number, what `draw` gives for each, and its random numbers after that.

        Raises:
            O2NError: weights are no numbers any more. The last checkpoint is of before that.
        """
        self.plan.folder.mkdir(parents=True, exist_ok=True)
        begun = time.monotonic() - self.seconds
        bar = tqdm(total=self.plan.steps, initial=self.step, unit="step", mininterval=10, smoothing=0.05)
        drawn: DataLoader[tuple[Drawn, np.random.Generator]] = DataLoader(
            _Steps(draw, self.plan.seed),
            batch_size=None,
            sampler=range(self.step, self.plan.steps if self._done() < 1 else self.step),
            num_workers=self.plan.drawers,
            prefetch_factor=8 if self.plan.drawers else None,
            collate_fn=_as_it_is,
        )
        for batch, rng in drawn:
            torch.manual_seed(hash((self.plan.seed, self.step)))
            yield self.step, rng, batch
            bar.update()
            if self.step % TRIM_EVERY == 0:
                give_back_memory()
                self._check()
            self.seconds = time.monotonic() - begun
            if self.step % self.plan.save_every == 0 or self._done() == 1:
                self.save()
            if self._done() == 1:
                break
        bar.close()

    def _go_on(self) -> None:
        try:
            saved = torch.load(self._file, map_location=self._parameters[0].device, weights_only=True)
            self.modules.load_state_dict(saved["modules"])
            for name, tensor in saved["average"].items():
                self.average[name].copy_(tensor)
            self.optimizer.load_state_dict(saved["optimizer"])
            self.step, self.seconds = saved["step"], saved["seconds"]
        except Exception as error:  # torch raises many kinds on a file that is no checkpoint, or another's
            raise O2NError(
                f"{self._file} is damaged, or of another training ({cause_of(error)}): "
                "take it away to begin anew, or name another folder"
            ) from error

    def _check(self) -> None:
        if not torch.stack([torch.isfinite(parameter).all() for parameter in self._parameters]).all():
            raise O2NError(
                f"the training in {self.plan.folder} has failed, at step {self.step} weights are no numbers any more: "
                "go on from its last checkpoint with another --seed, or begin anew with a smaller batch"
            )

    def _done(self) -> float:
        """The share of the run that lies behind."""
        by_time = self.seconds / self.plan.seconds if self.plan.seconds else 0.0
        return min(1.0, max(self.step / self.plan.steps, by_time))

    def update(self, loss: Tensor) -> None:
        """One step down the gradient of `loss`."""
        warm = min(1.0, (self.step + 1) / self.plan.warmup)
        fall = 0.5 + 0.5 * np.cos(np.pi * self._done())
        for group in self.optimizer.param_groups:
            group["lr"] = self.plan.learning_rate * warm * max(float(fall), 0.01)
        self.optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self._parameters, 1.0)
        self.optimizer.step()
        self.step += 1
        decay = min(AVERAGE, self.step / (self.step + 10))
        with torch.no_grad():
            torch._foreach_lerp_(self._averages, self._weights, 1 - decay)

    def save(self) -> None:
        """Write the checkpoint, whole or not at all."""
        self._check()
        state: dict[str, Any] = {
            "modules": self.modules.state_dict(),
            "average": self.average,
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "seconds": self.seconds,
        }
        with replacing(self._file) as part:
            torch.save(state, part)

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Within it, the modules have their averaged weights."""
        live = {name: tensor.clone() for name, tensor in self.modules.state_dict().items()}
        self.modules.load_state_dict(self.average)
        try:
            yield
        finally:
            self.modules.load_state_dict(live)


class _Steps(Dataset[tuple[Drawn, np.random.Generator]]):
    """For every step what is drawn for it, and the random numbers it was drawn with, as they are then."""

    def __init__(self, draw: Callable[[np.random.Generator], Drawn], seed: int) -> None:
        self._draw, self._seed = draw, seed

    def __getitem__(self, step: int) -> tuple[Drawn, np.random.Generator]:
        rng = np.random.default_rng([self._seed, step])
        return self._draw(rng), rng


def _as_it_is(batch: Any) -> Any:
    return batch


def draw_category(category: Category, good: int, bad: int, rng: np.random.Generator) -> Pictures:
    """Pictures of a category for training, seen in one of many ways; one in three has another family's light and shade
    laid over it, so that there are more kinds of pictures than there are families."""
    drawn = vary_category(draw(category, good, bad, int(rng.integers(1 << 40))), rng)
    if rng.uniform() < 1 / 3:
        (other,) = categories(rng, TRAINING, 1)
        over = vary_category(draw(other, good + bad, 0, int(rng.integers(1 << 40))), rng).twins
        shade = over.mean(axis=-1, keepdims=True, dtype=np.float32) / np.float32(over.mean())
        strength = np.float32(rng.uniform(0.3, 1))

        def shaded(pictures: np.ndarray) -> np.ndarray:
            return np.clip(pictures * (1 + strength * (shade - 1)), 0, 255).astype(np.uint8)

        drawn = replace(drawn, pictures=shaded(drawn.pictures), twins=shaded(drawn.twins))
    return drawn


@functools.cache
def _vocabulary() -> tuple[str, ...]:
    tokens = [token.removesuffix("</w>") for token in SimpleTokenizer().encoder if token.endswith("</w>")]
    return tuple(sorted(token for token in tokens if len(token) > 2 and token.isascii() and token.isalpha()))


def any_word(rng: np.random.Generator) -> str:
    """One or two words of the tokenizer's vocabulary. Users call their parts what they like: prompts must mean good
    and bad with a word that training never tied to a picture, too."""
    known = _vocabulary()
    return " ".join(known[index] for index in rng.integers(len(known), size=int(rng.integers(1, 3))))
