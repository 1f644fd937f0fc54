"""The three branches of the triplet, each for many categories at once: what a version needs is loaded on demand,
kept under a budget and shared by all requests. The library calls them in turn; Serve gives each a deployment.
"""

import functools
import threading

import safetensors.torch
import torch
from cachetools import LRUCache
from torch import Tensor

from o2n.bank import MemoryBank
from o2n.category import Manifest, VersionRef
from o2n.customize import load_adapter, unload_adapter
from o2n.errors import FoundationError, IntegrityError
from o2n.features import personal_distance
from o2n.foundation import DiffusionModel, Foundation
from o2n.images import Picture
from o2n.personalize import noise_for, personalize
from o2n.prompts import personal_prompts
from o2n.store import CategoryStore
from o2n.text import abnormal_probability

MAX_ADAPTERS = 64
MAX_BANK_BYTES = 1 << 30
MAX_TEXTS = 4096


class PersonalBranch:
    """Queries -> their normal counterparts, one UNet batch for all categories (eq. 2, 3)."""

    def __init__(self, foundation: Foundation, store: CategoryStore) -> None:
        self._foundation, self._store = foundation, store
        self._adapters = _adapters_in(foundation.diffusion)
        self._scaled = _Scale(foundation, store, row=0)

    def counterparts(self, pictures: list[Picture], refs: list[VersionRef]) -> Tensor:
        """Args: pictures: B queries, uint8 (R, R, 3); refs: each one's version. Returns: float32 (B, 3, R, R), CPU."""
        model, profile = self._foundation.diffusion, self._foundation.profile
        found = []
        for start in range(0, len(pictures), MAX_ADAPTERS):  # so that one batch never evicts its own adapters
            part = slice(start, start + MAX_ADAPTERS)
            with self._adapters.lock:
                loaded = [self._loaded(ref) for ref in refs[part]]
                noise = [
                    noise_for(picture, adapter, model.latent_shape)
                    for picture, (_, adapter) in zip(pictures[part], loaded, strict=True)
                ]
                found.append(
                    personalize(
                        model,
                        pictures[part],
                        [text for text, _ in loaded],
                        [_adapter_name(ref) for ref in refs[part]],
                        torch.stack(noise).to(model.device),
                        t=profile.t,
                        steps=profile.diffusion.steps,
                        guidance=profile.diffusion.guidance,
                    )
                )
        return torch.cat(found)

    def distances(self, features: Tensor, counterpart_features: Tensor, refs: list[VersionRef]) -> Tensor:
        """Args: features: of the queries and of their counterparts, float32 (B, L, G, D). Returns: as NormalBranch."""
        return self._scaled(personal_distance(features, counterpart_features), refs)

    def _loaded(self, ref: VersionRef) -> tuple[Tensor, str]:
        """The prompts' conditioning and the adapter's digest of a version whose adapter is now in the UNet."""
        loaded = self._adapters.get(ref)
        if loaded is None:
            model, profile = self._foundation.diffusion, self._foundation.profile
            manifest = checked_manifest(self._store, ref, self._foundation)
            adapter = manifest.blobs["adapter"]
            loaded = model.embed(personal_prompts(manifest.object_word, profile.prompts)), adapter.sha256
            load_adapter(model, _adapter_name(ref), self._store.get_blob(adapter))
            self._adapters[ref] = loaded
        return loaded


class NormalBranch:
    """Features -> distances to the nearest normal patch of each one's own category (eq. 5)."""

    def __init__(self, foundation: Foundation, store: CategoryStore) -> None:
        self._foundation, self._store = foundation, store
        self._banks: LRUCache[VersionRef, MemoryBank] = LRUCache(MAX_BANK_BYTES, getsizeof=lambda bank: bank.nbytes)
        self._scaled = _Scale(foundation, store, row=1)

    def distances(self, features: Tensor, refs: list[VersionRef]) -> Tensor:
        """Args: features: float32 (B, L, G, D); refs: each one's version.

        Returns: float32 (B, L, G), on the CPU; in a calibrated profile on the scale of the version's good pictures.
        """
        distances = torch.empty(features.shape[:3])
        for ref in dict.fromkeys(refs):
            rows = [row for row, other in enumerate(refs) if other == ref]
            distances[rows] = self._bank(ref).distance(features[rows])
        return self._scaled(distances, refs)

    def _bank(self, ref: VersionRef) -> MemoryBank:
        bank = self._banks.get(ref)
        if bank is None:
            manifest = checked_manifest(self._store, ref, self._foundation)
            bank = MemoryBank(_tensor(self._store, manifest, "features"))
            if bank.nbytes <= MAX_BANK_BYTES:
                self._banks[ref] = bank
        return bank


class TextBranch:
    """Features -> how abnormal each patch reads beside its own category's prompts (eq. 6)."""

    def __init__(self, foundation: Foundation, store: CategoryStore) -> None:
        self._foundation, self._store = foundation, store
        self._texts: LRUCache[VersionRef, Tensor] = LRUCache(MAX_TEXTS)
        self._scaled = _Scale(foundation, store, row=2)

    def probabilities(self, features: Tensor, refs: list[VersionRef]) -> Tensor:
        """Args: features: float32 (B, L, G, D); refs: each one's version.

        Returns: float32 (B, L, G) in [0, 1], on the CPU; in a calibrated profile scaled as NormalBranch's.
        """
        text = torch.stack([self._text(ref) for ref in refs])
        return self._scaled(abnormal_probability(self._foundation.clip, features, text).cpu(), refs)

    def _text(self, ref: VersionRef) -> Tensor:
        text = self._texts.get(ref)
        if text is None:
            manifest = checked_manifest(self._store, ref, self._foundation)
            text = self._texts[ref] = _tensor(self._store, manifest, "text_features")
        return text


class _Scale:
    """One branch's values on the scale of each version's own good pictures (`scales.py`): `row` of its scales."""

    def __init__(self, foundation: Foundation, store: CategoryStore, row: int) -> None:
        self._foundation, self._store, self._row = foundation, store, row
        self._known: LRUCache[VersionRef, Tensor] = LRUCache(MAX_TEXTS)

    def __call__(self, local: Tensor, refs: list[VersionRef]) -> Tensor:
        """Args: local: float32 (B, L, G); refs: each one's version. Returns: (local - mean) / deviation."""
        mean, deviation = torch.stack([self._of(ref) for ref in refs]).unbind(dim=1)
        return (local - mean[:, None, None]) / deviation[:, None, None]

    def _of(self, ref: VersionRef) -> Tensor:
        scale = self._known.get(ref)
        if scale is None:
            manifest = checked_manifest(self._store, ref, self._foundation)
            scale = self._known[ref] = _tensor(self._store, manifest, "scales")[self._row]
        return scale


def checked_manifest(store: CategoryStore, ref: VersionRef, foundation: Foundation) -> Manifest:
    """The manifest of `ref`, if it was made with this profile and these very weights.

    Raises:
        FoundationError: it was not; its adapter and features would silently mean something else.
    """
    manifest = store.manifest(ref)
    if manifest.foundation != foundation.identity or manifest.profile != foundation.profile:
        raise FoundationError(
            f"{ref.category} version {ref.version} was made with profile {manifest.profile.name!r} and models "
            f"{manifest.foundation}, not with profile {foundation.profile.name!r} and models {foundation.identity} "
            "as loaded here: use its own profile, or onboard it again"
        )
    return manifest


def pack(tensor: Tensor) -> bytes:
    """A blob that holds one tensor, as safetensors."""
    return safetensors.torch.save({"tensor": tensor.cpu().contiguous()})


def unpack(data: bytes, what: str) -> Tensor:
    """The tensor of a blob made by `pack`; `what` names it in the error.

    Raises:
        IntegrityError: `data` is not such a blob.
    """
    try:
        return safetensors.torch.load(data)["tensor"]
    except Exception as error:  # safetensors raises its own kind, and struct and json errors
        raise IntegrityError(f"{what}: its bytes are not a tensor ({error}): onboard again") from error


def _tensor(store: CategoryStore, manifest: Manifest, blob: str) -> Tensor:
    what = f"{manifest.category} version {manifest.version}, {blob}"
    return unpack(store.get_blob(manifest.blobs[blob]), what)  # type: ignore[index]


def _adapter_name(ref: VersionRef) -> str:
    return f"o2n_{ref.version}"


class _Adapters(LRUCache[VersionRef, tuple[Tensor, str]]):
    """Which adapters are in a UNet, each with its prompts' conditioning and its digest; what falls out is unloaded.

    `lock` keeps the threads of a process from changing the UNet under each other.
    """

    def __init__(self, model: DiffusionModel) -> None:
        super().__init__(MAX_ADAPTERS)
        self._model = model
        self.lock = threading.Lock()

    def popitem(self) -> tuple[VersionRef, tuple[Tensor, str]]:
        ref, loaded = super().popitem()
        unload_adapter(self._model, _adapter_name(ref))
        return ref, loaded


@functools.cache
def _adapters_in(model: DiffusionModel) -> _Adapters:
    """One per UNet: two scorers in a process share their models, and so what is loaded into them."""
    return _Adapters(model)
