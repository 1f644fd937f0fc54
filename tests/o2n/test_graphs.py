"""On a GPU: a recorded step says what the step itself says, whatever has been put into its adapters since; and the
whole score is what a CPU makes of the picture."""

import gc
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
import torch

from o2n.category import VersionRef
from o2n.customize import adapter_loaded, customize
from o2n.foundation import load_foundation
from o2n.fusion import Score
from o2n.graphs import _graphs_of, without_graphs
from o2n.images import Picture, resize
from o2n.mixture import BASE
from o2n.models import DiffusionModel
from o2n.onboard import onboard
from o2n.personalize import redraw, seeded_noise
from o2n.store import CategoryStore
from o2n.triplet import TripletScorer
from tests.helpers import QUICK, checks, stripes

pytestmark = pytest.mark.gpu

SETTINGS = QUICK.customisation.model_copy(update={"learning_rate": 0.05})  # so that adapters differ visibly


@pytest.fixture(scope="module")
def model() -> Iterator[DiffusionModel]:
    diffusion = load_foundation(QUICK).diffusion
    made = {"one": [checks(0), checks(1)], "two": [resize(stripes(s), 64) for s in (0, 1)]}
    with ExitStack() as stack:
        for name, pictures in made.items():
            trained = customize(diffusion, pictures, [], name, SETTINGS, 0)
            stack.enter_context(adapter_loaded(diffusion, name, trained))
        yield diffusion


def redrawn(model: DiffusionModel, seed: int, adapters: list[str], guidance: float) -> torch.Tensor:
    count = len(adapters)
    x = model.encode([checks(seed + row) for row in range(count)])
    noise = torch.stack([seeded_noise(seed + row, model.latent_shape) for row in range(count)]).to(x.device)
    text = model.embed([f"a photo of thing {seed + row}" for row in range(count)])
    return redraw(model, x, noise, text, adapters, t=0.5, steps=8, guidance=guidance)


@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_a_recorded_step_is_the_step_itself(model: DiffusionModel, guidance: float) -> None:
    """The same adapters in any order are one graph; other pictures, prompts and orders go through it alike."""
    _graphs_of.cache_clear()
    orders = [["one", "two", BASE], ["one", "two", BASE], ["two", BASE, "one"], ["one", "one", BASE]]
    for seed, adapters in enumerate([*orders, ["two", "one", BASE]]):
        with without_graphs():
            expected = redrawn(model, seed, adapters, guidance)
        torch.testing.assert_close(redrawn(model, seed, adapters, guidance), expected, atol=2e-3, rtol=0)
    recorded = [graph for graph in _graphs_of(model)._made.values() if graph is not None]
    assert len(recorded) == 1
    assert (redrawn(model, 1, ["one"] * 2, 1.0) - redrawn(model, 1, ["two"] * 2, 1.0)).abs().max() > 1e-2


def test_weights_that_are_filled_in_anew_are_seen(model: DiffusionModel) -> None:
    for _ in range(2):
        before = redrawn(model, 0, ["one", "one"], 1.0)
    with torch.no_grad():
        for name, parameter in model.unet.named_parameters():
            if "lora_B.one." in name:
                parameter.mul_(-1)
    after = redrawn(model, 0, ["one", "one"], 1.0)
    with without_graphs():
        expected = redrawn(model, 0, ["one", "one"], 1.0)
    torch.testing.assert_close(after, expected, atol=2e-3, rtol=0)
    assert (after - before).abs().max() > 1e-2


def test_a_recorded_training_step_trains_as_the_step_itself(model: DiffusionModel) -> None:
    """Each loss depends on what all the steps before have made of the adapter."""
    settings = SETTINGS.model_copy(update={"steps": 8})

    def losses() -> list[float]:
        told: list[float] = []
        pictures, prior = [checks(0), checks(1)], [checks(5), checks(6)]
        customize(model, pictures, prior, "one", settings, 0, lambda step, loss: told.append(loss))
        return told

    with without_graphs():
        expected = losses()
    np.testing.assert_allclose(losses(), expected, rtol=2e-2)


def test_what_trainings_recorded_is_given_back(model: DiffusionModel) -> None:
    """Without waiting for Python's collector, which counts objects and knows nothing of a GPU's memory."""
    settings, held = SETTINGS.model_copy(update={"steps": 3}), []
    gc.disable()
    try:
        for _ in range(4):
            customize(model, [checks(0), checks(1)], [], "one", settings, 0)
            torch.cuda.empty_cache()
            held.append(torch.cuda.memory_reserved(model.device))
    finally:
        gc.enable()
    assert held[-1] <= 1.05 * held[0], held


def test_a_gpu_scores_as_a_cpu_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = CategoryStore(tmp_path.as_uri())
    refs = [
        onboard("checks", [checks(0), checks(1)], QUICK, store).ref,
        onboard("stripes", [stripes(0), stripes(1)], QUICK, store).ref,
    ]
    queries: list[Picture] = [checks(7), stripes(7), stripes(8), checks(8)]
    of: list[VersionRef] = [refs[0], refs[1], refs[0], refs[1]]
    on_gpu = [TripletScorer(QUICK, store).score(queries, of) for _ in range(3)][-1]
    alone = [TripletScorer(QUICK, store).score([query], [ref])[0] for query, ref in zip(queries, of, strict=True)]
    monkeypatch.setenv("O2N_DEVICE", "cpu")
    other = TripletScorer(QUICK, store)
    assert {other.foundation.diffusion.device.type, other.foundation.clip.mean.device.type} == {"cpu"}
    on_cpu = other.score(queries, of)

    def branches(scores: list[Score]) -> np.ndarray:
        return np.array([[score.s_p, score.s_n, score.s_text] for score in scores])

    np.testing.assert_allclose(branches(alone), branches(on_gpu), atol=2e-3)
    np.testing.assert_allclose(branches(on_gpu), branches(on_cpu), atol=5e-3)
