"""The three branches of the triplet, each for many categories at once: what a version needs is loaded on demand,
kept under a budget in bytes and shared by all requests. The library calls them in turn; Serve gives each a deployment.
"""

import functools
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from o2n.bank import MemoryBank
from o2n.category import BlobName, Manifest, VersionRef
from o2n.customize import load_adapter, read_adapter, read_text_lora
from o2n.errors import FoundationError, IntegrityError
from o2n.features import over_scales, personal_distance
from o2n.foundation import Foundation
from o2n.images import Picture
from o2n.loaded import Loaded
from o2n.models import DiffusionModel
from o2n.normals import Scale, scales_of
from o2n.personalize import noise_for, personalize
from o2n.prompts import personal_prompts
from o2n.store import CategoryStore
from o2n.text import abnormal_probability, map_to_text

ADAPTER_BYTES = 1 << 30
BANK_BYTES = 1 << 30
TEXT_BYTES = 64 << 20

# Adapters in the UNet at once, and so the most versions that share one of its batches.
SLOTS = 8


class PersonalBranch:
    """Queries -> their normal counterparts, one UNet batch for all categories (eq. 2, 3)."""

    def __init__(self, foundation: Foundation, store: CategoryStore, budget: int = ADAPTER_BYTES) -> None:
        """Args: budget: of bytes for adapters; beside it the UNet holds the `SLOTS` that were used last."""
        self._foundation, self._store = foundation, store
        self._slots = _slots_in(foundation.diffusion)
        self.loaded = Loaded(self._load, lambda adapter: adapter.nbytes, budget)

    def counterparts(self, pictures: list[Picture], refs: list[VersionRef]) -> Tensor:
        """Args: pictures: B queries, uint8 (H, W, 3) of any sizes; refs: each one's version.

        Returns: float32 (B, 3, R, R), on the CPU; R is the model's resolution.
        """
        model, profile = self._foundation.diffusion, self._foundation.profile
        loaded, found = [self.loaded.get(ref) for ref in refs], []
        for part in _stretches([adapter.digest for adapter in loaded], SLOTS):
            adapters = loaded[part]
            noise = [
                noise_for(picture, adapter.digest, model.latent_shape)
                for picture, adapter in zip(pictures[part], adapters, strict=True)
            ]
            with self._slots.holding(adapters) as names:
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
        return _scaled(personal_distance(features, redrawn), scales)

    def check(self) -> None:
        """Run the UNet once.

        Raises:
            FoundationError: what comes out is no number; whatever torch raises: nothing comes out.
        """
        model = self._foundation.diffusion
        with self._slots.holding([]), torch.inference_mode():
            blank = torch.zeros(1, *model.latent_shape, device=model.device)
            check_numbers("diffusion model", model.predict(blank, torch.tensor(0), model.embed([""])))

    def _load(self, ref: VersionRef) -> "_Adapter":
        model, profile = self._foundation.diffusion, self._foundation.profile
        manifest = checked_manifest(self._store, ref, self._foundation)
        blob = manifest.blobs["adapter"]
        data = self._store.get_blob(blob)
        weights = self._slots.fitting(data, blob.sha256)
        text = model.embed(personal_prompts(manifest.object_word, profile.prompts), read_text_lora(model, data))
        return _Adapter(blob.sha256, weights, text, scale_in(self._store, manifest, row=0))


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
        levels = len(self._foundation.profile.comparing.levels)
        return _scaled(over_scales(distances, levels), [scales[ref] for ref in refs])

    def check(self) -> None:
        """Find a vector in a bank of its own; raises as `PersonalBranch.check`."""
        features = torch.ones(1, 1, 1, 4) / 2
        check_numbers("memory bank", MemoryBank(features).distance(features))

    def _load(self, ref: VersionRef) -> tuple[MemoryBank, Scale]:
        manifest = checked_manifest(self._store, ref, self._foundation)
        kept = _tensor(self._store, manifest, "kept") if "kept" in manifest.blobs else None
        bank = MemoryBank(_tensor(self._store, manifest, "features"), kept, manifest.place_weight)
        return bank, scale_in(self._store, manifest, row=1)


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
        found = abnormal_probability(self._foundation.clip, features, torch.stack(texts)).cpu()
        return _scaled(over_scales(found, len(self._foundation.profile.encoder.levels)), list(scales))

    def check(self) -> None:
        """Read one made-up patch; raises as `PersonalBranch.check`."""
        clip, levels = self._foundation.clip, self._foundation.profile.encoder.levels
        patch = torch.ones(1, len(levels), 1, clip.model.visual.transformer.width, device=clip.mean.device)
        check_numbers("text branch", map_to_text(clip, patch))

    def _load(self, ref: VersionRef) -> tuple[Tensor, Scale]:
        manifest = checked_manifest(self._store, ref, self._foundation)
        return _tensor(self._store, manifest, "text_features"), scale_in(self._store, manifest, row=2)


def checked_manifest(store: CategoryStore, ref: VersionRef, foundation: Foundation) -> Manifest:
    """The manifest of `ref`, if it was made for this way of scoring and with these very weights.

    Raises:
        FoundationError: it was not; its adapter and features would silently mean something else.
    """
    manifest = store.manifest(ref)
    differing = [f"profile's {name}" for name in manifest.profile.differs_by(foundation.profile)]
    if manifest.foundation != foundation.identity:
        differing.append(f"models ({manifest.foundation}, not {foundation.identity})")
    if differing:
        raise FoundationError(
            f"{ref.category} version {ref.version} was made with profile {manifest.profile.name!r}, and what is loaded "
            f"here with {foundation.profile.name!r} differs by {', '.join(differing)}: "
            "use its own profile, or onboard it again"
        )
    return manifest


def pack(tensor: Tensor, **more: Tensor) -> bytes:
    """A blob that holds a tensor, and others by their names, as safetensors."""
    return safetensors.torch.save({name: one.cpu().contiguous() for name, one in {"tensor": tensor, **more}.items()})


def unpack(data: bytes, what: str) -> Tensor:
    """The tensor of a blob made by `pack`; `what` names it in the error.

    Raises:
        IntegrityError: `data` is not such a blob.
    """
    return _unpack(data, what)["tensor"]


def unpack_scales(data: bytes, what: str) -> list[Scale]:
    """The scales of S_P, S_N and S_text in a version's blob of them; as `unpack`."""
    tensors = _unpack(data, what)
    return scales_of(tensors["tensor"], tensors.get("usual"))


def unpack_calibration_scales(data: bytes, what: str, count: int) -> list[Scale]:
    """The same for `count` normal pictures, the references first: each of them beside what is usual of the others, as a
    query stands beside what is usual of them all. A reference counted among those would score less than any query."""
    tensors = _unpack(data, what)
    usual = tensors.get("usual")
    if usual is not None and "usual_without" in tensors:
        without = tensors["usual_without"]
        usual = torch.cat([without, usual[:, None].expand(-1, count - without.shape[1], -1, -1)], dim=1)
    return scales_of(tensors["tensor"], usual)


def _unpack(data: bytes, what: str) -> dict[str, Tensor]:
    try:
        tensors = safetensors.torch.load(data)
        tensors["tensor"]
        return tensors
    except Exception as error:  # safetensors raises its own kind, and struct and json errors
        raise IntegrityError(f"{what}: its bytes are not a tensor ({error}): onboard again") from error


def _tensor(store: CategoryStore, manifest: Manifest, blob: BlobName) -> Tensor:
    what = f"{manifest.category} version {manifest.version}, {blob}"
    return unpack(store.get_blob(manifest.blobs[blob]), what)


def scale_in(store: CategoryStore, manifest: Manifest, row: int) -> Scale:
    """The version's scale of S_P, S_N or S_text: row 0, 1 or 2; raises as `unpack`."""
    what = f"{manifest.category} version {manifest.version}, scales"
    return unpack_scales(store.get_blob(manifest.blobs["scales"]), what)[row]


def _scaled(local: Tensor, scales: list[Scale]) -> Tensor:
    """Args: local: float32 (B, L, G); scales: each one's."""
    return torch.stack([scale.of(one) for one, scale in zip(local, scales, strict=True)])


def check_numbers(what: str, computed: Tensor) -> None:
    """Raises: FoundationError: `what` has computed something that is no number."""
    if not torch.isfinite(computed).all():
        raise FoundationError(f"the {what} computes no numbers: restart this process, or mend its device")


def _stretches(digests: list[str], most: int) -> Iterator[slice]:
    """Where to cut so that no stretch has more than `most` different ones."""
    start, seen = 0, set[str]()
    for at, digest in enumerate(digests):
        if digest not in seen and len(seen) == most:
            yield slice(start, at)
            start, seen = at, set()
        seen.add(digest)
    yield slice(start, len(digests))


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


class _Slots:
    """A few places for adapters in one UNet, filled anew from what is loaded for every batch that needs others.

    Copying weights into a place takes a few milliseconds. Adding an adapter to a UNet takes peft longer the more are
    in it, two seconds at 160, and all that time nobody else can use the UNet.
    """

    def __init__(self, model: DiffusionModel) -> None:
        self._model = model
        # Keeps the threads of a process from changing the UNet under each other.
        self._lock = threading.Lock()
        # The first adapter: one of another form, of other alpha or layers, cannot take its place.
        self._template = b""
        self._form: tuple[dict[str, Any], dict[str, torch.Size]] = ({}, {})
        self._parameters: dict[str, dict[str, Tensor]] = {}
        self._held: dict[str, str] = {}  # place -> digest, the one used least recently first; "" while it is filled

    def fitting(self, data: bytes, digest: str) -> dict[str, Tensor]:
        """The weights in the adapter file `data`, by their names in the UNet.

        Raises:
            IntegrityError: not an adapter file, or one made for another UNet.
        """
        metadata, weights = read_adapter(data)
        # What else is in it is the text encoder's, whose changes are in a version's prompts.
        of_unet = {name: value for name, value in metadata.items() if name.startswith("unet.")}
        form = (of_unet, {key: tensor.shape for key, tensor in weights.items()})
        with self._lock:
            if not self._template:
                self._held[self._open(data)] = digest
                self._template, self._form = data, form
        if form != self._form:
            raise IntegrityError(f"adapter {digest} does not fit this diffusion model: onboard its category again")
        return weights

    @contextmanager
    def holding(self, adapters: list[_Adapter]) -> Iterator[dict[str, str]]:
        """The UNet for oneself, with these adapters in it, at most `SLOTS`: by digest, the name of each there."""
        with self._lock:
            wanted = {adapter.digest: adapter for adapter in adapters}
            places = {digest: place for place, digest in self._held.items() if digest in wanted}
            free = [place for place, digest in self._held.items() if digest not in wanted]
            for digest, adapter in wanted.items():
                if digest not in places:
                    places[digest] = self._open(self._template) if len(self._held) < SLOTS else free.pop(0)
                    self._held[places[digest]] = ""  # should this be interrupted, nobody may take it for the old one
                    self._fill(places[digest], adapter.weights)
                self._held.pop(places[digest])
                self._held[places[digest]] = digest
            yield places

    def _open(self, data: bytes) -> str:
        place = f"o2n_slot_{len(self._held)}"
        load_adapter(self._model, place, data)
        del self._model.text_loras[place]  # a version's prompts are read once, when it is loaded
        self._parameters[place] = {
            name.replace(f".{place}.", "."): parameter
            for name, parameter in self._model.unet.named_parameters()
            if f".{place}." in name
        }
        return place

    @torch.no_grad()
    def _fill(self, place: str, weights: dict[str, Tensor]) -> None:
        for key, parameter in self._parameters[place].items():
            parameter.copy_(weights[key])


@functools.cache
def _slots_in(model: DiffusionModel) -> _Slots:
    """One per UNet: two scorers in a process share their models, and so what is put into them."""
    return _Slots(model)
