"""Equations (2) and (3): what t does, which redrawing is chosen, many adapters in one batch."""

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from o2n.category import BlobRef
from o2n.customize import adapter_loaded, customize
from o2n.foundation import Foundation
from o2n.images import Picture, resize
from o2n.mixture import BASE
from o2n.models import SOLVERS, DiffusionModel, to_pictures, to_unit
from o2n.personalize import most_similar, noise_for, personalize, redraw, seeded_noise
from tests.helpers import QUICK, checks, stripes

CPU = torch.device("cpu")
SETTINGS = QUICK.customisation.model_copy(update={"learning_rate": 0.05})  # so that adapters differ visibly


@pytest.fixture(scope="module")
def model(foundation: Foundation) -> Iterator[DiffusionModel]:
    diffusion = foundation.diffusion
    made = {"one": [checks(0), checks(1)], "two": [resize(stripes(s), 64) for s in (0, 1)]}
    with ExitStack() as stack:
        for name, pictures in made.items():
            trained = customize(diffusion, pictures, [], name, SETTINGS, 0)
            stack.enter_context(adapter_loaded(diffusion, name, trained))
        yield diffusion


def latents(model: DiffusionModel, count: int) -> torch.Tensor:
    return model.encode([checks(seed) for seed in range(count)])


def noise(model: DiffusionModel, count: int) -> torch.Tensor:
    return torch.stack([seeded_noise(seed, model.latent_shape) for seed in range(count)])


def text(model: DiffusionModel, count: int) -> torch.Tensor:
    return model.embed([f"a photo of thing {index}" for index in range(count)])


def redrawn(
    model: DiffusionModel, x: torch.Tensor, adapters: list[str], t: float, guidance: float = 1.0
) -> torch.Tensor:
    count = len(x)
    return redraw(model, x, noise(model, count), text(model, count), adapters, t=t, steps=8, guidance=guidance)


def with_solver(model: DiffusionModel, solver: str) -> DiffusionModel:
    return replace(model, solver=solver)


@pytest.mark.parametrize("solver", SOLVERS)
def test_t_of_nought_returns_the_query_itself(model: DiffusionModel, solver: str) -> None:
    queries = [checks(0), checks(1)]
    texts = [text(model, 2)] * 2
    solved = with_solver(model, solver)
    found = personalize(solved, queries, texts, [BASE] * 2, noise(model, 2), t=0, steps=8, guidance=1)
    assert all(np.array_equal(a, b) for a, b in zip(to_pictures(found), queries, strict=True))


def test_the_smaller_t_the_closer_to_the_query(model: DiffusionModel) -> None:
    x = latents(model, 2)
    distances = [(redrawn(model, x, [BASE] * 2, t) - x).abs().mean().item() for t in (0.125, 0.5, 1.0)]
    assert distances == sorted(distances)


@pytest.mark.parametrize("solver", SOLVERS)
def test_t_of_one_forgets_the_query(model: DiffusionModel, solver: str) -> None:
    x, solved = latents(model, 2), with_solver(model, solver)
    assert torch.equal(redrawn(solved, x, [BASE] * 2, 1.0), redrawn(solved, x.flip(0), [BASE] * 2, 1.0))


@pytest.mark.parametrize("solver", SOLVERS)
def test_t_below_one_remembers_the_query(model: DiffusionModel, solver: str) -> None:
    x, solved = latents(model, 2), with_solver(model, solver)
    assert not torch.allclose(redrawn(solved, x, [BASE] * 2, 0.5), redrawn(solved, x.flip(0), [BASE] * 2, 0.5))


def test_all_solvers_solve_the_same_equation(model: DiffusionModel) -> None:
    """With very many steps DDIM comes to where the others are with few."""
    x = latents(model, 1)

    def solution(solver: str, steps: int) -> torch.Tensor:
        solved = with_solver(model, solver)
        return redraw(solved, x, noise(model, 1), text(model, 1), ["one"], t=0.5, steps=steps, guidance=1.0)

    exact = solution("ddim", 200)
    off = {solver: (solution(solver, 16) - exact).abs().mean().item() for solver in SOLVERS}
    assert off["dpm++"] < off["ddim"]
    assert off["unipc"] < off["ddim"]


@given(steps=st.integers(1, 8), t=st.floats(0, 1))
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_share_t_of_all_steps_is_taken(model: DiffusionModel, steps: int, t: float) -> None:
    """Eq. (3): round(t · steps) of them, the last ones."""
    seen: list[int] = []
    hook = model.unet.register_forward_pre_hook(lambda module, args: seen.append(int(args[1])))
    x = latents(model, 1)
    try:
        found = redraw(model, x, noise(model, 1), text(model, 1), [BASE], t=t, steps=steps, guidance=1.0)
    finally:
        hook.remove()
    taken = round(t * steps)
    assert seen == model.scheduler(steps).timesteps[steps - taken :].tolist()
    assert taken > 0 or torch.equal(found, x)


@pytest.mark.parametrize(("guidance", "solver"), [(1.0, "ddim"), (3.0, "dpm++"), (1.0, "unipc")])
def test_mixed_adapters_give_what_each_gives_alone(model: DiffusionModel, guidance: float, solver: str) -> None:
    x, adapters, model = latents(model, 4), ["one", "two", BASE, "one"], with_solver(model, solver)
    together = redrawn(model, x, adapters, 0.5, guidance)
    for index, adapter in enumerate(adapters):
        alone = redrawn(model, x, [adapter] * 4, 0.5, guidance)
        torch.testing.assert_close(together[index], alone[index], atol=1e-5, rtol=0)
    assert (redrawn(model, x, ["one"] * 4, 0.5) - redrawn(model, x, ["two"] * 4, 0.5)).abs().max() > 1e-2


def test_a_batch_of_one_equals_a_batch_of_many(model: DiffusionModel) -> None:
    x, adapters = latents(model, 3), ["two", "one", BASE]
    together = redrawn(model, x, adapters, 0.5)
    for index in range(3):
        alone = redraw(
            model,
            x[index : index + 1],
            noise(model, 3)[index : index + 1],
            text(model, 3)[index : index + 1],
            adapters[index : index + 1],
            t=0.5,
            steps=8,
            guidance=1,
        )
        torch.testing.assert_close(together[index], alone[0], atol=1e-5, rtol=0)


def test_an_adapter_that_is_not_loaded_is_an_error_and_not_the_base_model(model: DiffusionModel) -> None:
    with pytest.raises(KeyError, match="three"):
        redrawn(model, latents(model, 2), ["one", "three"], 0.5)


def test_the_candidate_most_like_the_query_is_kept() -> None:
    rng = np.random.default_rng(0)

    def noisy(sigma: float) -> Picture:
        return (checks(0) + rng.normal(0, sigma, (64, 64, 3))).clip(0, 255).astype(np.uint8)

    query, *candidates = to_unit([checks(0), noisy(60), checks(5), noisy(5), noisy(30)], CPU)
    assert torch.equal(most_similar(query, torch.stack(candidates)), candidates[2])


def test_the_choice_agrees_with_another_implementation_of_ssim() -> None:
    from skimage.metrics import structural_similarity

    query, candidates = checks(0), [stripes(seed, 64, 64) for seed in range(4)] + [checks(3)]
    similarity = [
        structural_similarity(query, c, channel_axis=-1, gaussian_weights=True, sigma=1.5, use_sample_covariance=False)
        for c in candidates
    ]
    unit = to_unit(candidates, CPU)
    assert torch.equal(most_similar(to_unit([query], CPU)[0], unit), unit[int(np.argmax(similarity))])


def test_personalize_keeps_order_over_several_chunks(model: DiffusionModel) -> None:
    queries = [checks(seed) for seed in range(20)]  # with 2 prompts each, more than one UNet batch
    texts = [text(model, 2)] * 20
    options = {"t": 0.25, "steps": 8, "guidance": 1.0}
    together = personalize(model, queries, texts, ["one"] * 20, noise(model, 20), **options)
    last = personalize(model, queries[19:], texts[19:], ["one"], noise(model, 20)[19:], **options)
    torch.testing.assert_close(together[19], last[0], atol=1e-5, rtol=0)


def test_noise_is_of_the_picture_and_the_adapter_alone() -> None:
    adapter, shape = BlobRef.of(b"1").sha256, (3, 8, 8)
    assert torch.equal(noise_for(checks(0), adapter, shape), noise_for(checks(0).copy(), adapter, shape))
    assert not torch.equal(noise_for(checks(0), adapter, shape), noise_for(checks(1), adapter, shape))
    assert not torch.equal(noise_for(checks(0), adapter, shape), noise_for(checks(0), adapter[::-1], shape))
