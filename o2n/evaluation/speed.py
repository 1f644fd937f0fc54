"""How long the method and each of its stages take on this machine, what they compute, and how much memory."""

import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

import torch
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from o2n.bank import MemoryBank
from o2n.branches import NormalBranch, PersonalBranch, TextBranch
from o2n.category import VersionRef
from o2n.customize import adapter_loaded, customize
from o2n.device import pick_device
from o2n.evaluation.tasks import Task
from o2n.features import counterpart_features, features_to_compare, features_to_read
from o2n.foundation import Foundation, load_foundation
from o2n.graphs import without_graphs
from o2n.images import Picture, resize
from o2n.normals import encode
from o2n.onboard import onboard
from o2n.personalize import personalize, seeded_noise
from o2n.pool import draw_pool, draw_prior, warped
from o2n.profiles import Profile
from o2n.prompts import personal_prompts
from o2n.store import CategoryStore
from o2n.triplet import BATCH, TripletScorer

ADAPTER = "o2n_speed"

# PyTorch's counter knows the attention of GPUs alone.
CPU_ATTENTION = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: lambda query, key, value, *_, **__: sdpa_flop_count(
        query, key, value
    )
}

Call = Callable[[], object]


@dataclass(frozen=True)
class Speed:
    """Seconds: to onboard one category; to score one picture alone; to score one of a batch of 8 (medians)."""

    onboarding: float
    alone: float
    in_batch: float


@dataclass(frozen=True)
class Stage:
    """One stage of the method. seconds: of one call, the median. pictures: that one call works on. flops: of one call,
    multiplications and additions, counted and not estimated; FAISS's are not seen.

    peak_bytes: the most that the device, or on a CPU the process, held during the calls; added_bytes: of it, what was
    not there before. Both None where the system does not tell.
    """

    name: str
    pictures: int
    seconds: float
    flops: int
    peak_bytes: int | None
    added_bytes: int | None


def measure(task: Task, profile: Profile, store: CategoryStore, rounds: int = 5) -> Speed:
    """Onboard the task's category and score its first pictures; loading the models is not counted."""
    load_foundation(profile)
    begun = time.perf_counter()
    ref = onboard("speed", task.references, profile, store, task.object_word).ref
    onboarding = time.perf_counter() - begun
    scorer = TripletScorer(profile, store)

    def timed(count: int) -> float:
        return timed_stage("", count, lambda: scorer.score(task.queries[:count], [ref] * count), rounds).seconds / count

    return Speed(onboarding, timed(1), timed(BATCH))


def onboarding_stages(task: Task, foundation: Foundation, rounds: int) -> Iterator[Stage]:
    """The parts of an onboarding, each once it is measured; the LoRA training is given per 100 steps, whatever the
    profile takes."""
    profile, model = foundation.profile, foundation.diffusion
    references = [resize(reference, profile.diffusion.resolution) for reference in task.references]
    prior: list[Picture] = []

    def draw_class() -> None:
        prior[:] = draw_prior(model, task.object_word, profile)

    yield timed_stage("prior pictures", profile.customisation.prior_pictures, draw_class, rounds=1)
    ticks: list[float] = []
    adapter = b""

    def train(steps: int) -> None:
        nonlocal adapter
        ticks.clear()
        adapter = customize(
            model,
            references,
            prior,
            task.object_word,
            profile.customisation.model_copy(update={"steps": steps}),
            profile.seed,
            lambda step, loss: ticks.append(time.perf_counter()),
        )

    # What comes before the first step is no part of a step.
    flops = counted(lambda: train(2)) - counted(lambda: train(1))
    training = _timed("LoRA, 100 steps", profile.customisation.batch, 100 * flops, lambda: train(1 + rounds), 1)
    per_step = (ticks[-1] - ticks[0]) / rounds
    yield replace(training, seconds=100 * per_step)
    pool: list[Picture] = []

    def draw() -> None:
        pool[:] = draw_pool(model, ADAPTER, references, task.object_word, profile)

    with adapter_loaded(model, ADAPTER, adapter):
        yield timed_stage("pool", max(1, profile.pool.pictures - len(references)), draw, rounds)
    pictures = references + warped(references, profile.pool.warps) + pool

    yield timed_stage("bank", len(pictures), lambda: MemoryBank(encode(foundation, pictures)), rounds)


def scoring_stages(
    foundation: Foundation, store: CategoryStore, queries: list[Picture], refs: list[VersionRef], rounds: int
) -> Iterator[Stage]:
    """What one batch goes through, each part once it is measured: the encoder for the queries and again for their
    counterparts, and the branches. Together they are a whole score but for resizing and fusing.

    Args: queries: uint8 (R, R, 3) at the version's resolution; refs: each one's version.
    """
    count = len(queries)
    personal, normal = PersonalBranch(foundation, store), NormalBranch(foundation, store)
    text = TextBranch(foundation, store)
    features = features_to_compare(foundation, queries)
    counterparts = personal.counterparts(queries, refs)
    redrawn = counterpart_features(foundation, counterparts)
    calls: dict[str, Call] = {
        "encoder, queries": lambda: features_to_compare(foundation, queries),
        "personalise": lambda: personal.counterparts(queries, refs),
        "encoder, counterparts": lambda: counterpart_features(foundation, counterparts),
        "S_P": lambda: personal.distances(features, redrawn, refs),
        "S_N": lambda: normal.distances(features, refs),
        "S_text": lambda: text.probabilities(features_to_read(foundation, queries, features), refs),
    }
    for name, call in calls.items():
        yield timed_stage(name, count, call, rounds)


def personalise_stage(
    foundation: Foundation,
    store: CategoryStore,
    queries: list[Picture],
    ref: VersionRef,
    prompts: int,
    rounds: int,
    graphs: bool = True,
) -> Stage:
    """Redrawing the queries with `prompts` prompts each, whatever number the profile has; or without CUDA graphs."""
    profile, model, manifest = foundation.profile, foundation.diffusion, store.manifest(ref)
    text = model.embed(personal_prompts(manifest.object_word, prompts))
    noise = seeded_noise(profile.seed, (len(queries), *model.latent_shape)).to(model.device)
    adapter = store.get_blob(manifest.blobs["adapter"])
    with adapter_loaded(model, ADAPTER, adapter), nullcontext() if graphs else without_graphs():
        return timed_stage(
            f"personalise, {prompts} prompt{'s' * (prompts > 1)}" + ", no graphs" * (not graphs),
            len(queries),
            lambda: personalize(
                model,
                queries,
                [text] * len(queries),
                [ADAPTER] * len(queries),
                noise,
                t=profile.t,
                steps=profile.diffusion.steps,
                guidance=profile.guidance,
            ),
            rounds,
        )


def whole_score(
    profile: Profile, store: CategoryStore, pictures: list[Picture], refs: list[VersionRef], rounds: int
) -> Stage:
    """A whole score of all pictures in one batch, as the library gives it."""
    scorer = TripletScorer(profile, store)
    return timed_stage("whole score", len(pictures), lambda: scorer.score(pictures, refs, batch=len(pictures)), rounds)


def flops_per_second(device: torch.device, dtype: torch.dtype) -> float:
    """What the device reaches in a large product of matrices of that precision: the best of five."""
    side = 8192 if device.type == "cuda" else 1024
    a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    seconds = []
    for _ in range(6):  # the first for nothing
        begun = time.perf_counter()
        (a @ b)[0, 0].item()  # waits for a GPU
        seconds.append(time.perf_counter() - begun)
    return 2 * side**3 / min(seconds[1:])


def counted(call: Call) -> int:
    """The multiplications and additions of one call. Source: torch.utils.flop_counter."""
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # the counter cannot read evaluation's fused attention
    try:
        with without_graphs(), FlopCounterMode(display=False, custom_mapping=CPU_ATTENTION) as counter:
            call()
        return counter.get_total_flops()
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


def timed_stage(name: str, pictures: int, call: Call, rounds: int) -> Stage:
    """`call` once to count what it computes and to warm up, then `rounds` times; a GPU is waited for, and has recorded
    its graphs, which it does the second time."""
    flops = counted(call)
    if pick_device().type == "cuda":
        call()
        call()
    return _timed(name, pictures, flops, call, rounds)


def _timed(name: str, pictures: int, flops: int, call: Call, rounds: int) -> Stage:
    device, seconds = pick_device(), []
    held = _Peak(device)
    for _ in range(rounds):
        _wait(device)
        begun = time.perf_counter()
        call()
        _wait(device)
        seconds.append(time.perf_counter() - begun)
    return Stage(name, pictures, median(seconds), flops, *held.read())


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


class _Peak:
    """The most memory that was held since it was made: of the GPU where there is one, with what recorded steps have
    reserved, else of this process. What FAISS holds of a GPU, banks and `bank.GPU_SCRATCH`, is not in it: PyTorch does
    not know of it."""

    def __init__(self, device: torch.device) -> None:
        self._gpu = device if device.type == "cuda" else None
        if self._gpu:
            torch.cuda.reset_peak_memory_stats(self._gpu)
            self._before: int | None = torch.cuda.memory_reserved(self._gpu)
            return
        try:
            # Sets back what Linux calls the high-water mark of this process (proc(5)).
            Path("/proc/self/clear_refs").write_text("5")
            self._before = _status("VmRSS")
        except OSError:
            self._before = None

    def read(self) -> tuple[int | None, int | None]:
        """The peak, and how much of it was added; in bytes."""
        if self._before is None:
            return None, None
        peak = torch.cuda.max_memory_reserved(self._gpu) if self._gpu else _status("VmHWM")
        return peak, max(0, peak - self._before)


def _status(field: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise OSError(f"/proc/self/status has no {field}")
