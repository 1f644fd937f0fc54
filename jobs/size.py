"""Print docs/sizing.md: what categories and pictures a day need, simulated from measured times.

    python jobs/size.py > docs/sizing.md

Cores come from docs/serving.json (`python jobs/benchmark.py serving`), onboarding from docs/tiny.json
(`python jobs/evaluate_tiny.py`). GPUs are reckoned from operations that were counted and the share of an H200's limit
that scoring and onboarding reached there (`python jobs/benchmark.py scoring --profile paper --random-weights`).
"""

import json
from pathlib import Path
from typing import Any

import click

from o2n.branches import ADAPTER_BYTES, BANK_BYTES
from o2n.evaluation.sizing import (
    DAY,
    DAY_SECONDS,
    VERSIONS,
    Branch,
    Need,
    bank_bytes,
    bottleneck,
    needed,
    pointer_reads,
)
from o2n.profiles import PAPER, TINY

DOCS = Path(__file__).parents[1] / "docs"
REFERENCES = 4
CATEGORIES = (1, 100, 10_000)
PICTURES = (1e6, 1e7, 1e8, 1e9)
PROCESS = 0.6e9  # bytes of a process with torch and the tiny models, measured as a worker in docs/offline_memory.json
TINY_ADAPTER, TINY_REST = 0.9e6, 1.7e6  # bytes of one: LoRA weights; what calibration and feedback keep

# The paper profile, counted on the published configuration: TFLOP of a UNet forward at 512², of encoding, of decoding.
UNET, ENCODE, DECODE = 0.80, 1.12, 2.51
CLIP = 0.18  # ViT-L/14 at 240 px
PEAK, UTILISATION = 790.0, 0.25  # TFLOP/s of an H200 in bf16 products; the share that scores in batches of 8 reach
LORA_STEP, POOL, PRIOR_PICTURE = 0.058, 7.4, 0.35  # seconds of an H200
PAPER_ADAPTER = 12.8e6 + 0.7e6  # LoRA of rank 16, and the conditioning of its prompts
PAPER_MODELS = 8e9  # bytes: both models in bf16, and what one batch of 8 takes

PAGE = """# Sizing

What a number of categories and of pictures a day need, and what gives way first. Made by
`python jobs/size.py > docs/sizing.md`, which simulates a day (`o2n/evaluation/sizing.py`): pictures come at random, at
{peak_hour:.1f} times the day's mean in its busiest hour; the second most frequent category has half the pictures of the
first, the third a third; a replica takes what waits in batches, and reads a category that its cache has no room for; no
replica is busier than 80%, and 95 of 100 pictures are through a branch in a second.

Where the numbers come from:

- **Cores are measured**, with the `tiny` profile on 2 cores of an AMD EPYC: the CPU that each process of the service
  took for a picture (`docs/serving.json`), onboarding (`docs/tiny.json`), and the sizes of what is stored. Pictures
  were of 64 pixels a side; where references have 128 and more, `tiny` looks closer: reckon with twice the bank and its
  search, and with five times the Encoder's cores.
- **GPUs are reckoned from one.** The operations of the `paper` profile were counted on its published configuration
  and divided by {utilisation:.0f}% of the {tflops:.0f} TFLOP/s that an NVIDIA H200 reaches in products of matrices,
  which is what scores in batches of 8 got there, on random weights and without the service. What onboarding takes was
  measured on it. Measure yours (`python jobs/benchmark.py scoring`) before you buy.
- Memory is that of replicas with full caches. S3 is what the store holds with {versions} versions of each category, and
  what is read in a second at the peak: categories that caches have no room for, and pointers, which a gateway reads
  once a second for every category that is asked for.

## tiny, on cores (measured)

{tiny_table}

Scored offline, pictures need no peak. At {offline:.2f} core seconds each and spread evenly over the day, they keep so
many cores busy: {offline_cores}.

## paper, on H200 GPUs (reckoned)

{paper_table}

With 6 steps instead of 15 a Personalizer takes half of it.

## Onboarding

| categories | tiny, core hours (measured) | paper, H200 hours (measured) |
| --- | --- | --- |
{onboarding_table}

One category takes {onboarding:.0f} s of two cores, or {on_gpu:.0f} s of an H200; the pictures of its class, made once
for all categories of one object word, take another {prior:.0f} s there. Categories do not depend on each other: n
machines take an n-th of the time.

## What to do about it

- **Personalizer** is the diffusion model, and the one to put on GPUs. Fewer steps or prompts (the profile) come first,
  then more replicas.
- **NormalScorer** gives way where categories are many: a bank of `tiny` takes {tiny_bank:.0f} MiB, one of `paper`
  {paper_bank:.0f} MiB, and a replica keeps {bank_budget:.0f} GiB of them. Raise its budget (`serve/config.yaml`), or
  give groups of categories an application of their own, so that a replica meets fewer of them.
- **Reads of S3** are mostly pointers, once a second by every gateway: fewer, larger gateways read fewer, and groups of
  categories under prefixes of their own have a limit each.
"""


@click.command()
def main() -> None:
    """The sizing page as Markdown."""
    serving = json.loads((DOCS / "serving.json").read_text())
    onboarding = json.loads((DOCS / "tiny.json").read_text())["seconds"]["onboarding"]
    click.echo(page(cores(serving), gpus(), onboarding), nl=False)


def cores(serving: dict[str, Any]) -> list[Branch]:
    """The deployments of the tiny profile: seconds of a core for a picture, as the service's processes took them."""
    seconds = {name: ms / 1000 for name, ms in serving["http"]["cpu_ms_per_picture"].items()}
    bank = bank_bytes(TINY, REFERENCES, grid=16, width=128)
    return [
        Branch("Encoder", seconds["Encoder"], PROCESS),
        Branch("Personalizer", seconds["Personalizer"], PROCESS, TINY_ADAPTER, ADAPTER_BYTES),
        Branch("NormalScorer", seconds["NormalScorer"], PROCESS, bank, BANK_BYTES),
        Branch("TextScorer", seconds["TextScorer"], PROCESS),
        Branch("Gateway", seconds["Gateway"] + seconds["proxy"], 0.3e9, batch=1),
        Branch("Ray", seconds["Ray"], 0.3e9, batch=1),
    ]


def gpus() -> list[Branch]:
    """The same of the paper profile on H200s, reckoned; what runs on cores is scaled from the tiny profile's."""
    steps = round(PAPER.diffusion.steps * PAPER.t)
    redraw = ENCODE + PAPER.prompts * (steps * UNET + DECODE)
    bank = bank_bytes(PAPER, REFERENCES, grid=17, width=1024)
    # Every patch of a query with every patch of the bank, on a core of some 50 GFLOP/s.
    search = 2 * 17**2 * bank / 4 / 50e9
    return [
        Branch("Encoder", 2 * CLIP / (PEAK * UTILISATION), 2e9, unit="GPU"),
        Branch("Personalizer", redraw / (PEAK * UTILISATION), PAPER_MODELS, PAPER_ADAPTER, ADAPTER_BYTES, unit="GPU"),
        Branch("NormalScorer", search, 1e9, bank, BANK_BYTES),
        Branch("Gateway", 0.02, 0.3e9, batch=1),
    ]


def page(tiny: list[Branch], paper: list[Branch], onboarding: float) -> str:
    """The page. Args: onboarding: seconds that one category took on two cores with the tiny profile."""
    on_gpu = PAPER.customisation.steps * LORA_STEP + POOL
    offline = sum(branch.seconds for branch in tiny[:4])
    tiny_bank = bank_bytes(TINY, REFERENCES, grid=16, width=128)
    paper_bank = bank_bytes(PAPER, REFERENCES, grid=17, width=1024)
    return PAGE.format(
        peak_hour=max(DAY),
        utilisation=100 * UTILISATION,
        tflops=PEAK,
        versions=VERSIONS,
        tiny_table=_table(tiny, tiny_bank + TINY_ADAPTER + TINY_REST),
        offline=offline,
        offline_cores=", ".join(f"{_short(p)} {p * offline / 0.9 / DAY_SECONDS:,.0f}" for p in PICTURES),
        paper_table=_table(paper, paper_bank * (1 + REFERENCES / PAPER.pool.pictures) + PAPER_ADAPTER),
        onboarding_table="\n".join(
            f"| {n:,} | {n * onboarding * 2 / 3600:,.2f} | {n * on_gpu / 3600:,.2f} |" for n in CATEGORIES
        ),
        onboarding=onboarding,
        on_gpu=on_gpu,
        prior=PAPER.customisation.prior_pictures * PRIOR_PICTURE,
        tiny_bank=tiny_bank / 2**20,
        paper_bank=paper_bank / 2**20,
        bank_budget=BANK_BYTES / 2**30,
    )


def _table(branches: list[Branch], stored: float) -> str:
    units = sorted({branch.unit for branch in branches}, reverse=True)
    head = ["categories", "pictures a day", *(f"{u}s at the peak" for u in units), *(f"{u} hours a day" for u in units)]
    head += ["memory, GiB", "S3, GB", "S3 reads/s at the peak", "first to give way"]
    lines = [f"| {' | '.join(head)} |", "| --- " * len(head) + "|"]
    for categories in CATEGORIES:
        for pictures in PICTURES:
            needs = [needed(branch, categories, pictures) for branch in branches]
            gateways = next(need.replicas for need in needs if need.branch.name == "Gateway")
            reads = pointer_reads(categories, pictures, gateways)
            cells = [
                f"{categories:,}",
                _short(pictures),
                *(f"{_of(needs, unit):,}" for unit in units),
                *(f"{sum(need.hours for need in needs if need.branch.unit == unit):,.0f}" for unit in units),
                f"{sum(need.memory for need in needs) / 2**30:,.0f}",
                f"{categories * VERSIONS * stored / 1e9:,.1f}",
                f"{reads + sum(need.gets for need in needs):,.0f}",
                bottleneck(needs, reads),
            ]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _of(needs: list[Need], unit: str) -> int:
    return sum(need.replicas for need in needs if need.branch.unit == unit)


def _short(pictures: float) -> str:
    return f"{pictures / 1e6:,.0f} million" if pictures < 1e9 else f"{pictures / 1e9:,.0f} billion"


if __name__ == "__main__":
    main()
