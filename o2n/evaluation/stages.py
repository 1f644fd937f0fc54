"""What each stage of the method costs on this machine: time, memory, and the share of the limit that it reaches.

The limit is what the device does in a large matrix product of the precision that the stage computes in; the arithmetic
of a stage is counted, not estimated.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise
from statistics import median
from time import perf_counter

import torch
from torch.utils.flop_counter import FlopCounterMode

from o2n.bank import MemoryBank
from o2n.category import VersionRef
from o2n.customize import customize, load_adapter, unload_adapter
from o2n.evaluation.speed import Stage, timed_stage
from o2n.features import features_to_compare, features_to_read, personal_distance
from o2n.foundation import Foundation
from o2n.images import Picture, resize
from o2n.normals import encode
from o2n.personalize import personalize, seeded_noise
from o2n.pool import draw_pool, warped
from o2n.prompts import personal_prompts
from o2n.store import CategoryStore
from o2n.text import abnormal_probability, text_features
from o2n.triplet import TripletScorer

ADAPTER = "o2n_stages"
PROMPTS = (1, 3)

Call = Callable[[], object]


@dataclass(frozen=True)
class Cost:
    """A stage and what it reaches. flops: of one call, multiplications and additions. limit_share: of the device's
    limit, in [0, 1]."""

    stage: Stage
    flops: int
    limit_share: float


def flops_per_second(device: torch.device, dtype: torch.dtype, side: int | None = None) -> float:
    """The limit: the best of 5 products of square matrices."""
    side = side or (8192 if device.type == "cuda" else 1024)
    a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    seconds = []
    for _ in range(6):
        begun = perf_counter()
        (a @ b)[0, 0].item()  # waits for a GPU
        seconds.append(perf_counter() - begun)
    return 2 * side**3 / min(seconds[1:])


def measure(name: str, pictures: int, call: Call, limit: float, rounds: int) -> Cost:
    """Time `call`, and count what it computes. Args: limit: in operations a second."""
    with FlopCounterMode(display=False) as counter:
        call()
    flops, stage = counter.get_total_flops(), timed_stage(name, pictures, call, rounds, warm=False)
    return Cost(stage, flops, flops / stage.seconds / limit)


def onboarding_costs(foundation: Foundation, references: list[Picture], word: str, rounds: int) -> list[Cost]:
    """The LoRA training, per 100 steps; the pool; the bank. Args: references: uint8 (H, W, 3)."""
    profile, model = foundation.profile, foundation.diffusion
    limit = flops_per_second(model.device, model.unet.conv_in.weight.dtype)
    shown = [resize(reference, profile.diffusion.resolution) for reference in references]
    adapter = b""
    ticks: list[float] = []

    def train(steps: int) -> None:
        nonlocal adapter
        ticks.clear()
        settings = profile.customisation.model_copy(update={"steps": steps})
        adapter = customize(
            model, shown, shown, word, settings, profile.seed, lambda step, loss: ticks.append(perf_counter())
        )

    def flops_of(steps: int) -> int:
        with FlopCounterMode(display=False) as counter:
            train(steps)
        return counter.get_total_flops()

    # What comes before the first step is no part of a step.
    one = flops_of(2) - flops_of(1)
    trained = timed_stage("LoRA, 100 steps", profile.customisation.batch, lambda: train(2 + rounds), 1, warm=False)
    second = median(after - before for before, after in pairwise(ticks))
    costs = [Cost(replace(trained, seconds=100 * second), 100 * one, one / second / limit)]
    pool: list[Picture] = []

    def draw() -> None:
        pool[:] = draw_pool(model, ADAPTER, shown, word, profile)

    load_adapter(model, ADAPTER, adapter)
    try:
        drawn = max(1, profile.pool.pictures - len(shown))
        costs.append(measure("pool", drawn, draw, limit, 1))
    finally:
        unload_adapter(model, ADAPTER)
    pictures = shown + warped(shown, profile.pool.warps) + pool
    limit = flops_per_second(foundation.clip.mean.device, torch.float32)
    costs.append(measure("bank", len(pictures), lambda: MemoryBank(encode(foundation, pictures)), limit, rounds))
    return costs


def scoring_costs(
    foundation: Foundation, store: CategoryStore, ref: VersionRef, pictures: list[Picture], rounds: int
) -> list[Cost]:
    """Personalisation with 1 and 3 prompts, the encoder, each branch, and the whole score of one batch.

    Args: pictures: the batch, uint8 (H, W, 3), all scored with `ref`.
    """
    profile, model, clip = foundation.profile, foundation.diffusion, foundation.clip
    count, device = len(pictures), foundation.clip.mean.device
    half = flops_per_second(model.device, model.unet.conv_in.weight.dtype)
    full = flops_per_second(device, torch.float32)
    queries = [resize(picture, profile.diffusion.resolution) for picture in pictures]
    word = store.manifest(ref).object_word
    noise = seeded_noise(profile.seed, (count, *model.latent_shape)).to(model.device)

    def redrawn(prompts: int) -> torch.Tensor:
        return personalize(
            model,
            queries,
            [model.embed(personal_prompts(word, prompts))] * count,
            [ADAPTER] * count,
            noise,
            t=profile.t,
            steps=profile.diffusion.steps,
            guidance=profile.diffusion.guidance,
        )

    costs = []
    load_adapter(model, ADAPTER, store.get_blob(store.manifest(ref).blobs["adapter"]))
    try:
        for prompts in PROMPTS:
            name = f"personalise, {prompts} prompt{'s' * (prompts > 1)}"
            costs.append(measure(name, count, lambda prompts=prompts: redrawn(prompts), half, rounds))  # type: ignore[misc]
        counterparts = redrawn(1)
    finally:
        unload_adapter(model, ADAPTER)
    features = features_to_compare(foundation, queries)
    other = features_to_compare(foundation, counterparts)
    bank = MemoryBank(encode(foundation, queries))
    text = text_features(clip, word)[None].expand(count, -1, -1).to(device)
    scorer = TripletScorer(profile, store)

    def read() -> torch.Tensor:
        return abnormal_probability(clip, features_to_read(foundation, queries, features), text)

    calls: dict[str, tuple[Call, float]] = {
        "encoder": (lambda: features_to_compare(foundation, queries), full),
        "S_P": (lambda: personal_distance(features, other), full),
        "S_N": (lambda: bank.distance(features), full),
        "S_text": (read, full),
        "whole score": (lambda: scorer.score(pictures, [ref] * count, batch=count), half),
    }
    return costs + [measure(name, count, call, limit, rounds) for name, (call, limit) in calls.items()]


def table(costs: list[Cost]) -> str:
    """Markdown, a row per stage."""
    lines = [
        "| stage | pictures | time | a picture | TFLOP | share of the limit | peak memory |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for cost in costs:
        stage = cost.stage
        peak = f"{stage.peak_bytes / 1e9:.2f} GB" if stage.peak_bytes else ""
        times = f"{stage.seconds:.3f} s | {1000 * stage.seconds / stage.pictures:.0f} ms"
        share = f"{cost.flops / 1e12:.3f} | {100 * cost.limit_share:.0f}%"
        lines.append(f"| {stage.name} | {stage.pictures} | {times} | {share} | {peak} |")
    return "\n".join(lines)
