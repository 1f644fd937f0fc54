"""PatchCore, PaDiM and WinCLIP as anomalib (Akcay et al., ICIP 2022) has them, beside those written here: each on the
backbone and at the size that anomalib gives it, its maps smoothed."""

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import open_clip
import safetensors.torch
import torch
from torch import Tensor

from o2n import images
from o2n.device import pick_device
from o2n.errors import FoundationError, cause_of
from o2n.evaluation.methods.interface import Scores
from o2n.images import Picture
from o2n.models import to_unit, weights_digest
from o2n.profiles import Profile
from o2n.settings import get_settings

# Outcomes are kept for as long as this stays the same: raise it when what is computed changes.
REVISION = 1

SHARE = 0.1  # of the patches that PatchCore's coreset keeps


@dataclass(frozen=True)
class Anomalib:
    """model: anomalib's, with its weights. learn: tells it what float32 (K, 3, side, side) references and their word
    are. mean, std: by which pictures are normalised; of ImageNet, where nothing else is said."""

    name: str
    model: Any
    learn: Callable[[Any, Tensor, str], None]
    side: int = 256
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)

    @cached_property
    def weights(self) -> str:
        return f"{weights_digest([self.model])} in anomalib {version('anomalib')} at {self.side}"

    @torch.no_grad()
    def fit(self, references: list[Picture], object_word: str) -> "AnomalibFitted":
        model = copy.deepcopy(self.model, {id(one): one for one in self.model.parameters()})  # they do not change
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.learn(model, self.seen(references), object_word)
        return AnomalibFitted(self, model.eval())

    def seen(self, pictures: list[Picture]) -> Tensor:
        """uint8 (H, W, 3) pictures of any sizes as the model takes them."""
        unit = to_unit([images.resize(picture, self.side) for picture in pictures], pick_device())
        mean, std = (torch.tensor(values, device=unit.device).view(3, 1, 1) for values in (self.mean, self.std))
        return (unit - mean) / std


@dataclass(frozen=True)
class AnomalibFitted:
    """A model that knows one category."""

    method: Anomalib
    model: Any

    @torch.no_grad()
    def score(self, pictures: list[Picture]) -> Scores:
        found = self.model(self.method.seen(pictures))
        scores, maps = found.pred_score.flatten(), found.anomaly_map.reshape(len(pictures), *[self.method.side] * 2)
        return Scores(scores.cpu().numpy().astype(np.float64), maps.cpu().numpy())


def anomalib_patchcore(profile: Profile) -> Anomalib:
    """PatchCore on a Wide ResNet-50.

    Raises:
        FoundationError: anomalib is not installed, or the weights are not in `O2N_MODELS`.
    """
    with _brought("anomalib-patchcore", "timm/wide_resnet50_2.racm_in1k", "model.safetensors") as (module, file):
        model = _with_weights(module.PatchcoreModel(layers=["layer2", "layer3"], pre_trained=False), file)
    return Anomalib("PatchCore (anomalib)", model, _learn_coreset)


def anomalib_padim(profile: Profile) -> Anomalib:
    """PaDiM on a ResNet-18; raises as `anomalib_patchcore`."""
    with _brought("anomalib-padim", "timm/resnet18.a1_in1k", "model.safetensors") as (module, file):
        model = _with_weights(module.PadimModel(pre_trained=False), file)
    return Anomalib("PaDiM (anomalib)", model, _learn_gaussians)


def anomalib_winclip(profile: Profile) -> Anomalib:
    """WinCLIP+ on open_clip's ViT-B-16-plus-240; raises as `anomalib_patchcore`."""
    repository, name = "timm/vit_base_patch16_plus_clip_240.laion400m_e31", "open_clip_model.safetensors"
    with (
        _brought("anomalib-winclip", repository, name) as (module, file),
        patch.object(module, "PRETRAINED", str(file)),  # it takes it from nowhere else
    ):
        model = module.WinClipModel().to(pick_device()).eval()
    side, mean, std = model.clip.visual.image_size[0], open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD
    return Anomalib("WinCLIP (anomalib)", model, _learn_windows, side, mean, std)


@contextmanager
def _brought(method: str, repository: str, name: str) -> Iterator[tuple[Any, Path]]:
    """anomalib's module of a method, and the file of its weights; what fails on them is told with what is needed."""
    folder = repository.replace("/", "--")
    try:
        if (root := get_settings().models) is None:
            raise FileNotFoundError("O2N_MODELS is not set")
        kind = method.removeprefix("anomalib-")
        with torch.random.fork_rng():
            torch.manual_seed(0)  # PaDiM draws the dimensions that it sees
            yield import_module(f"anomalib.models.image.{kind}.torch_model"), root / folder / name
    except Exception as error:  # anomalib, timm, open_clip and safetensors each raise their own kinds
        raise FoundationError(
            f"{method} cannot be built ({cause_of(error)}): it needs pip install '.[anomalib]', O2N_MODELS set to a "
            f"folder, and in that {folder}/{name}: where the hub can be reached, "
            f"hf download {repository} {name} --local-dir $O2N_MODELS/{folder}"
        ) from error


def _with_weights(model: Any, file: Path) -> Any:
    """Of the file what the backbone has as far as it is used."""
    kept, backbone = safetensors.torch.load_file(file), model.feature_extractor.feature_extractor
    backbone.load_state_dict({name: kept[name] for name in backbone.state_dict()})
    return model.to(pick_device()).eval()


def _learn_coreset(model: Any, pictures: Tensor, word: str) -> None:
    sampler = import_module("anomalib.models.components").KCenterGreedy(model.train()(pictures), SHARE)
    sampler.model.random_state = 0  # of its projection, which torch does not draw
    model.embedding_store.clear()
    model.memory_bank = sampler.sample_coreset()


def _learn_gaussians(model: Any, pictures: Tensor, word: str) -> None:
    model.train()(pictures)
    model.fit()


def _learn_windows(model: Any, pictures: Tensor, word: str) -> None:
    model.setup(word, pictures)
