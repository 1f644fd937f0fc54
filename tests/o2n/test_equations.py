"""Properties of the equations, one by one, for any numbers: (1) to (4) and (6) here; (5) in `test_bank.py`, (7) in
`test_fusion.py`."""

from dataclasses import dataclass, replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from o2n.customize import _denoising_losses, _loss
from o2n.features import personal_distance
from o2n.foundation import Foundation
from o2n.fusion import image_score
from o2n.mixture import BASE
from o2n.models import SOLVERS, to_unit
from o2n.personalize import most_similar, noise_for, redraw, seeded_noise
from o2n.text import abnormal_probability
from tests.helpers import unit

SEEDS = st.integers(0, 10_000)
KINDS = st.sampled_from(["sample", "epsilon", "v_prediction"])


@dataclass
class Oracle:
    """Knows x_0, and so predicts without error what a model of `kind` is asked for."""

    kind: str
    x0: Tensor

    @property
    def noising(self) -> DDIMScheduler:
        return DDIMScheduler(prediction_type=self.kind)

    def predict(self, x: Tensor, t: Tensor, text: Tensor) -> Tensor:
        scheduler = self.noising
        alpha = scheduler.alphas_cumprod[t].view(-1, 1, 1, 1)
        noise = (x - alpha.sqrt() * self.x0) / (1 - alpha).sqrt()
        return {"sample": self.x0, "epsilon": noise, "v_prediction": scheduler.get_velocity(self.x0, noise, t)}[
            self.kind
        ]


class OracleUNet(torch.nn.Module):
    """An oracle in the place of a UNet. asked: the timesteps it was asked for, and the latents."""

    def __init__(self, oracle: Oracle) -> None:
        super().__init__()
        self.oracle, self.conv_in = oracle, torch.nn.Conv2d(1, 1, 1)
        self.asked: list[tuple[int, Tensor]] = []

    def forward(self, x: Tensor, t: Tensor, text: Tensor) -> SimpleNamespace:
        self.asked.append((int(t), x))
        return SimpleNamespace(sample=self.oracle.predict(x, t, text))


@given(kind=KINDS, spoilt=st.booleans(), seed=SEEDS)
@settings(max_examples=60, deadline=None)
def test_equation_1_is_nought_for_who_knows_the_flawless_picture(kind: str, spoilt: bool, seed: int) -> None:
    """Whatever is predicted, with a made-up defect or without: x_0 is what is asked for, and nothing else."""
    x0 = seeded_noise(seed, (3, 4, 8, 8))
    shown = x0 + spoilt * seeded_noise(seed + 1, (3, 4, 8, 8))
    text, t, noise = (
        torch.zeros(1, 1, 1),
        0.9 * seeded_noise(seed + 2, (3,)).sigmoid(),
        seeded_noise(seed + 3, x0.shape),
    )
    for knows, right in ((x0, True), (x0 + 1, False)):
        oracle = Oracle(kind, knows)
        weight = 1 + 20 * (seeded_noise(seed + 4, (3, 1, 8, 8)) > 1)
        losses = _denoising_losses(oracle.noising, oracle.predict, x0, text, shown, t, noise, weight)
        assert (losses < 1e-4).all() if right else (losses > 1e-4).all()


@given(kind=KINDS, seed=SEEDS, weight=st.floats(1, 30))
@settings(max_examples=50, deadline=None)
def test_an_error_counts_as_its_place_does(kind: str, seed: int, weight: float) -> None:
    x0 = seeded_noise(seed, (2, 3, 4, 4)).tanh()
    noise, text, t = seeded_noise(seed + 1, x0.shape), torch.zeros(1, 1, 1), torch.tensor([0.2, 0.6])
    guess = Oracle(kind, torch.zeros_like(x0))
    left = torch.zeros(2, 1, 4, 4)
    left[..., :2] = 1

    def losses(weights: Tensor) -> Tensor:
        return _denoising_losses(guess.noising, guess.predict, x0, text, x0, t, noise, weights)

    torch.testing.assert_close(losses(left) + losses(1 - left), losses(torch.ones_like(left)))
    torch.testing.assert_close(losses(1 + (weight - 1) * left), weight * losses(left) + losses(1 - left))


@given(kind=KINDS, seed=SEEDS, weight=st.floats(0, 10))
@settings(max_examples=50, deadline=None)
def test_equation_1_adds_the_class_prior_by_its_weight(kind: str, seed: int, weight: float) -> None:
    """Own + λ · prior, each the mean over its batch; whoever denoises both without error has no loss."""
    x0 = seeded_noise(seed, (4, 3, 4, 4)).tanh()
    noise, text = seeded_noise(seed + 1, x0.shape), torch.zeros(2, 1, 1)
    t = torch.rand(4, generator=torch.Generator().manual_seed(seed)) * 0.99
    guess = Oracle(kind, torch.zeros(2, 3, 4, 4))  # the same for either half
    even, halves = torch.ones(2, 1, 4, 4), (slice(0, 2), slice(2, 4))
    own, prior = ((x0[part], text, x0[part], t[part], noise[part], even) for part in halves)
    both = Oracle(kind, torch.zeros_like(x0))
    alone, other = (float(_loss(guess.noising, guess.predict, one, None, 0.0)) for one in (own, prior))
    found = float(_loss(both.noising, both.predict, own, prior, weight))
    assert found == pytest.approx(alone + weight * other, rel=1e-4)
    right = Oracle(kind, x0)
    assert float(_loss(right.noising, right.predict, own, prior, weight)) < 1e-3


@given(seed=SEEDS, count=st.integers(1, 4), place=st.integers(0, 4))
@settings(max_examples=25, deadline=None)
def test_equation_2_prefers_nothing_to_the_query_itself(seed: int, count: int, place: int) -> None:
    rng = np.random.default_rng(seed)
    pictures = rng.integers(0, 256, (count + 1, 32, 32, 3), dtype=np.uint8)
    unit = to_unit(list(pictures), torch.device("cpu"))
    query = unit[min(place, count)]
    assert torch.equal(most_similar(query, unit), query)


@given(t=st.floats(0, 1), steps=st.integers(1, 12), solver=st.sampled_from(list(SOLVERS)), kind=KINDS, seed=SEEDS)
@settings(max_examples=100, deadline=None)
def test_equation_3_begins_at_the_noised_query_and_ends_at_the_flawless_picture(
    foundation: Foundation, t: float, steps: int, solver: str, kind: str, seed: int
) -> None:
    """√α_t x + √(1-α_t) ε at the first timestep of those taken, the noise alone at t = 1; and x_0 for who knows it."""
    x, noise, x0 = (seeded_noise(seed + row, (2, 3, 4, 4)) for row in range(3))
    x0 = x0.tanh()
    oracle = Oracle(kind, x0)
    unet, schedule = OracleUNet(oracle), dict(oracle.noising.config)
    model = replace(foundation.diffusion, unet=unet, scheduler_config=schedule, solver=solver)
    found = redraw(model, x, noise, torch.zeros(2, 1, 1), [BASE] * 2, t=t, steps=steps, guidance=1.0)
    taken = round(t * steps)
    assert len(unet.asked) == taken
    if taken == 0:
        assert torch.equal(found, x)
        return
    first, begun = unet.asked[0]
    assert first == model.scheduler(steps).timesteps[steps - taken]
    alpha = oracle.noising.alphas_cumprod[first]
    expected = noise if taken == steps else alpha.sqrt() * x + (1 - alpha).sqrt() * noise
    torch.testing.assert_close(begun, expected)
    torch.testing.assert_close(found, x0, atol=1e-4, rtol=0)


@given(seed=st.integers(0, 1000), adapter=st.text("0123456789abcdef", min_size=64, max_size=64))
@settings(max_examples=25, deadline=None)
def test_the_noise_of_equation_3_is_gaussian_and_a_function_of_content(seed: int, adapter: str) -> None:
    picture = np.random.default_rng(seed).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    torch.manual_seed(seed)  # the process's own state is of no account
    noise = noise_for(picture, adapter, (3, 32, 32))
    torch.manual_seed(seed + 1)
    assert torch.equal(noise, noise_for(picture.copy(), adapter, (3, 32, 32)))
    assert abs(noise.mean()) < 0.1
    assert abs(noise.std() - 1) < 0.1
    other = picture.copy()
    other[0, 0, 0] ^= 1
    assert not torch.equal(noise, noise_for(other, adapter, (3, 32, 32)))


@given(seed=SEEDS, shape=st.tuples(st.integers(1, 3), st.integers(1, 3), st.integers(1, 6), st.integers(2, 8)))
@settings(max_examples=40, deadline=None)
def test_equation_4_is_one_minus_the_cosine_at_the_same_place(seed: int, shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(seed)
    query, counterpart = rng.normal(size=(2, *shape))
    cosine = (query * counterpart).sum(-1) / np.linalg.norm(query, axis=-1) / np.linalg.norm(counterpart, axis=-1)
    unit = [torch.nn.functional.normalize(torch.from_numpy(x), dim=-1) for x in (query, counterpart)]
    found = personal_distance(*unit)
    np.testing.assert_allclose(found.numpy(), 1 - cosine, atol=1e-9)
    torch.testing.assert_close(found, personal_distance(*unit[::-1]))
    assert personal_distance(unit[0], unit[0]).max() < 1e-9
    # Its outer terms: the worst place of every level, and the mean of the levels.
    local = found[0].float().numpy()
    assert image_score(local) == pytest.approx(np.mean([max(level) for level in local.tolist()]), abs=1e-6)
    assert image_score(local[:, rng.permutation(local.shape[1])]) == pytest.approx(image_score(local))


@given(seed=SEEDS, shape=st.tuples(st.integers(1, 3), st.integers(1, 9)))
@settings(max_examples=40, deadline=None)
def test_equation_6_is_the_softmax_of_both_classes(foundation: Foundation, seed: int, shape: tuple[int, int]) -> None:
    (batch, patches), clip = shape, foundation.clip
    assert clip.maps is not None
    weight, bias = (parameter.detach().cpu().double().numpy() for parameter in (clip.maps.weight, clip.maps.bias))
    features, text = unit(batch, len(weight), patches, weight.shape[1], seed=seed), unit(batch, 2, 128, seed=seed + 1)

    def found(features: Tensor, text: Tensor) -> Tensor:
        return abnormal_probability(clip, features.to(clip.mean.device), text).cpu()

    mapped = features.double().numpy() @ weight + bias[:, None]
    mapped /= np.linalg.norm(mapped, axis=-1, keepdims=True)
    odds = np.exp(100 * np.einsum("blge,bce->blgc", mapped, text.double().numpy()))
    probability = found(features, text)
    np.testing.assert_allclose(probability.numpy(), odds[..., 1] / odds.sum(axis=-1), atol=1e-4)
    assert ((probability >= 0) & (probability <= 1)).all()
    torch.testing.assert_close(probability + found(features, text.flip(1)), torch.ones_like(probability))
    order = torch.randperm(patches, generator=torch.Generator().manual_seed(seed))
    torch.testing.assert_close(found(features[:, :, order], text), probability[:, :, order], atol=1e-5, rtol=0)
