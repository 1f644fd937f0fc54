"""The three branches of the triplet, each for many categories at once: what a version needs is loaded on demand,
kept under a budget in bytes and shared by all requests. The library calls them in turn; Serve gives each a deployment.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from o2n.bank import MemoryBank
from o2n.category import VersionRef
from o2n.customize import read_text_lora
from o2n.errors import FoundationError
from o2n.features import over_scales, personal_distance, smoothed
from o2n.foundation import Foundation
from o2n.images import Picture
from o2n.loaded import Loaded
from o2n.normals import Scale
from o2n.personalize import noise_for, personalize
from o2n.profiles import Profile
from o2n.prompts import personal_prompts
from o2n.slots import SLOTS, slots_in, stretches
from o2n.store import CategoryStore
from o2n.text import abnormal_probability, map_to_text
from o2n.version import checked_manifest, scales_in, tensor_in

ADAPTER_BYTES = 1 << 30
BANK_BYTES = 1 << 30
TEXT_BYTES = 64 << 20


class PersonalBranch:
    """Queries -> their normal counterparts, one UNet batch for all categories (eq. 2, 3)."""

    def __init__(self, foundation: Foundation, store: CategoryStore, budget: int = ADAPTER_BYTES) -> None:
        """Args: budget: of bytes for adapters; beside it the UNet holds the `SLOTS` that were used last."""
        self._foundation, self._store = foundation, store
        self._slots = slots_in(foundation.diffusion)
        self.loaded = Loaded(self._load, lambda adapter: adapter.nbytes, budget)

    def counterparts(self, pictures: list[Picture], refs: list[VersionRef]) -> Tensor:
        """Args: pictures: B queries, uint8 (H, W, 3) of any sizes; refs: each one's version.

        Returns: float32 (B, 3, R, R), on the CPU; R is the model's resolution.
        """
        model, profile = self._foundation.diffusion, self._foundation.profile
        loaded, found = [self.loaded.get(ref) for ref in refs], []
        for part in stretches([adapter.digest for adapter in loaded], SLOTS):
            adapters = loaded[part]
            noise = [
                noise_for(picture, adapter.digest, model.latent_shape)
                for picture, adapter in zip(pictures[part], adapters, strict=True)
            ]
            with self._slots.holding({adapter.digest: adapter.weights for adapter in adapters}) as names:
                found.append(
                    personalize(
                        model,
                        pictures[part],
                        [adapter.text for adapter in adapters],
                        [names[adapter.digest] for adapter in adapters],
                        torch.stack(noise).to(model.device),
                        t=profile.t,
                        steps=profile.diffusion.steps,
                        guidance=profile.guidance,
                    )
                )
        return torch.cat(found)

    def distances(self, features: Tensor, redrawn: Tensor, refs: list[VersionRef]) -> Tensor:
        """Args: as `personal_distance`; refs: each query's version. Returns: as NormalBranch."""
        scales = [self.loaded.get(ref).scale for ref in refs]
        return _scaled(personal_distance(features, redrawn), self._foundation.profile, scales)

    def check(self) -> None:
        """Run the UNet once.

        Raises:
            FoundationError: what comes out is no number; whatever torch raises: nothing comes out.
        """
        model = self._foundation.diffusion
        with self._slots.holding({}), torch.inference_mode():
            blank = torch.zeros(1, *model.latent_shape, device=model.device)
            check_numbers("diffusion model", model.predict(blank, torch.tensor(0), model.embed([""])))

    def _load(self, ref: VersionRef) -> "_Adapter":
        model, profile = self._foundation.diffusion, self._foundation.profile
        manifest = checked_manifest(self._store, ref, self._foundation)
        blob = manifest.blobs["adapter"]
        data = self._store.get_blob(blob)
        weights = self._slots.fitting(data, blob.sha256)
        text = model.embed(personal_prompts(manifest.object_word, profile.prompts), read_text_lora(model, data))
        return _Adapter(blob.sha256, weights, text, scales_in(self._store, manifest)[0])


class NormalBranch:
    """Features -> distances to the nearest normal patch of each one's own category (eq. 5)."""

    def __init__(self, foundation: Foundation, store: CategoryStore, budget: int = BANK_BYTES) -> None:
        """Args: budget: of bytes for banks."""
        self._foundation, self._store = foundation, store
        self.loaded = Loaded(self._load, lambda bank: bank[0].nbytes, budget)

    def distances(self, features: Tensor, refs: list[VersionRef]) -> Tensor:
        """Args: features: float32 (B, S·L, G, D) at S scales; refs: each one's version.

        Returns: float32 (B, L, G), on the CPU; in a calibrated profile on the scale of the version's good pictures.
        """
        distances = torch.empty(features.shape[:3])
        scales: dict[VersionRef, Scale] = {}
        for ref in dict.fromkeys(refs):
            bank, scales[ref] = self.loaded.get(ref)
            rows = [row for row, other in enumerate(refs) if other == ref]
            distances[rows] = bank.distance(features[rows])
        profile = self._foundation.profile
        found = over_scales(distances, len(profile.comparing.levels))
        return _scaled(found, profile, [scales[ref] for ref in refs])

    def check(self) -> None:
        """Find a vector in a bank of its own; raises as `PersonalBranch.check`."""
        features = torch.ones(1, 1, 1, 4) / 2
        check_numbers("memory bank", MemoryBank(features).distance(features))

    def _load(self, ref: VersionRef) -> tuple[MemoryBank, Scale]:
        manifest = checked_manifest(self._store, ref, self._foundation)
        kept = tensor_in(self._store, manifest, "kept") if "kept" in manifest.blobs else None
        bank = MemoryBank(tensor_in(self._store, manifest, "features"), kept, manifest.place_weight)
        return bank, scales_in(self._store, manifest)[1]


class TextBranch:
    """Features -> how abnormal each patch reads beside its own category's prompts (eq. 6)."""

    def __init__(self, foundation: Foundation, store: CategoryStore, budget: int = TEXT_BYTES) -> None:
        """Args: budget: of bytes for text features."""
        self._foundation, self._store = foundation, store
        self.loaded = Loaded(self._load, lambda text: text[0].nbytes, budget)

    def probabilities(self, features: Tensor, refs: list[VersionRef]) -> Tensor:
        """Args: features: float32 (B, S·L, G, D) at S scales; refs: each one's version.

        Returns: float32 (B, L, G) in [0, 1], on the CPU; in a calibrated profile scaled as NormalBranch's.
        """
        texts, scales = zip(*(self.loaded.get(ref) for ref in refs), strict=True)
        profile = self._foundation.profile
        found = abnormal_probability(self._foundation.clip, features, torch.stack(texts)).cpu()
        return _scaled(over_scales(found, len(profile.encoder.levels)), profile, list(scales))

    def check(self) -> None:
        """Read one made-up patch; raises as `PersonalBranch.check`."""
        clip, levels = self._foundation.clip, self._foundation.profile.encoder.levels
        patch = torch.ones(1, len(levels), 1, clip.model.visual.transformer.width)  # where features come from: the CPU
        check_numbers("text branch", map_to_text(clip, patch))

    def _load(self, ref: VersionRef) -> tuple[Tensor, Scale]:
        manifest = checked_manifest(self._store, ref, self._foundation)
        return tensor_in(self._store, manifest, "text_features"), scales_in(self._store, manifest)[2]


def _scaled(local: Tensor, profile: Profile, scales: list[Scale]) -> Tensor:
    """Args: local: float32 (B, L, G); scales: each one's."""
    even = smoothed(local, profile.smoothing)
    return torch.stack([scale.of(one) for one, scale in zip(even, scales, strict=True)])


def check_numbers(what: str, computed: Tensor) -> None:
    """Raises: FoundationError: `what` has computed something that is no number."""
    if not torch.isfinite(computed).all():
        raise FoundationError(f"the {what} computes no numbers: restart this process, or mend its device")


@dataclass(frozen=True)
class _Adapter:
    """What the personal branch needs of a version: LoRA weights, their digest, its prompts' conditioning, its scale."""

    digest: str
    weights: dict[str, Tensor]
    text: Tensor
    scale: Scale

    @property
    def nbytes(self) -> int:
        return sum(tensor.nbytes for tensor in (*self.weights.values(), self.text, *self.scale))
