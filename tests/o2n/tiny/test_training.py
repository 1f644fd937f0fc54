"""Training: a run that was interrupted ends where an uninterrupted one ends, and what is shipped can be loaded."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import nn

from o2n.data.procedural import TRAINING, Category, draw
from o2n.errors import O2NError
from o2n.foundation import load_from
from o2n.profiles import TINY
from o2n.tiny.clip_training import encode, train_clip
from o2n.tiny.diffusion_training import train_diffusion
from o2n.tiny.training import Trainer, TrainingPlan, categories, to_tensor, vary_category
from o2n.tiny.weights import FILES, export


def run(folder: Path, until: int, drawers: int = 0) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    modules = nn.ModuleDict({"line": nn.Linear(3, 1)})
    trainer = Trainer(modules, TrainingPlan(folder, 10, 0.1, seed=4, drawers=drawers, warmup=1))
    for _, rng, drawn in trainer.rounds(lambda rng: rng.standard_normal((8, 3))):
        x = torch.from_numpy(drawn + rng.standard_normal((8, 3))).float() + torch.randn(8, 3)
        trainer.update((modules["line"](x) - x.sum(dim=1, keepdim=True)).square().mean())
        if trainer.step == until:
            trainer.save()
            break
    return trainer.average


def test_a_run_goes_on_from_its_checkpoint(tmp_path: Path) -> None:
    whole = run(tmp_path / "whole", until=10)
    run(tmp_path / "parts", until=4)
    parts = run(tmp_path / "parts", until=10)
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


@pytest.mark.parametrize("damage", ["cut", "emptied", "no checkpoint", "another's"])
def test_a_checkpoint_that_cannot_be_used_is_named(damage: str, tmp_path: Path) -> None:
    run(tmp_path, until=4)
    file = tmp_path / "checkpoint.pt"
    if damage == "cut":
        file.write_bytes(file.read_bytes()[:-400])
    elif damage == "emptied":
        file.write_bytes(b"")
    elif damage == "no checkpoint":
        file.write_bytes(b"step 4")
    else:
        torch.save(torch.load(file, weights_only=True) | {"modules": nn.Linear(5, 1).state_dict()}, file)
    with pytest.raises(O2NError, match=r"checkpoint\.pt is damaged, or of another training .*: take it away") as found:
        run(tmp_path, until=10)
    assert "\n" not in str(found.value)


def test_who_draws_the_pictures_changes_nothing(tmp_path: Path) -> None:
    own, ahead = run(tmp_path / "own", until=10), run(tmp_path / "ahead", until=10, drawers=2)
    assert all(torch.equal(own[name], ahead[name]) for name in own)


def test_weights_that_are_no_numbers_end_the_run_and_spare_the_checkpoint(tmp_path: Path) -> None:
    modules = nn.ModuleDict({"line": nn.Linear(3, 1)})
    trainer = Trainer(modules, TrainingPlan(tmp_path, 2000, 0.1, seed=4))

    def train(bad: int) -> None:
        for step, _, x in trainer.rounds(lambda rng: torch.from_numpy(rng.standard_normal((8, 3))).float()):
            loss = modules["line"](x).square().mean()
            trainer.update(loss * float("nan") if step == bad else loss)

    with pytest.raises(O2NError, match="at step 400 weights are no numbers"):
        train(399)
    saved = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    assert saved["step"] == 200
    assert all(torch.isfinite(tensor).all() for tensor in saved["modules"].values())


def test_a_run_ends_when_its_time_is_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = iter(range(10**6))  # a step takes one
    monkeypatch.setattr("o2n.tiny.training.time", SimpleNamespace(monotonic=lambda: next(seconds)))
    modules = nn.ModuleDict({"line": nn.Linear(3, 1)})
    trainer = Trainer(modules, TrainingPlan(tmp_path, 10**6, 0.1, seed=4, seconds=40, warmup=1))
    rates = []
    for _, _, x in trainer.rounds(lambda rng: torch.from_numpy(rng.standard_normal((8, 3))).float()):
        trainer.update(modules["line"](x).square().mean())
        rates.append(trainer.optimizer.param_groups[0]["lr"])
    assert trainer.step == trainer.seconds == 40
    assert rates[0] == 0.1
    assert rates[20] == pytest.approx(0.05)  # half a cosine by the clock
    assert rates[-1] < 0.002
    assert torch.load(tmp_path / "checkpoint.pt", weights_only=True)["step"] == trainer.step
    again = Trainer(modules, trainer.plan)
    assert list(again.rounds(lambda rng: None)) == []


def test_the_average_is_put_in_and_taken_out(tmp_path: Path) -> None:
    modules = nn.ModuleDict({"line": nn.Linear(3, 1)})
    trainer = Trainer(modules, TrainingPlan(tmp_path, 10, 0.1, seed=4))
    before = modules["line"].weight.clone()
    trainer.average["line.weight"].fill_(7)
    with trainer.averaged():
        assert (modules["line"].weight == 7).all()
    assert torch.equal(modules["line"].weight, before)


def test_a_category_is_varied_as_a_whole() -> None:
    drawn = draw(Category("label", 1), 2, 2, 0)
    for seed in range(6):
        seen = vary_category(drawn, np.random.default_rng(seed))
        differs = np.abs(seen.pictures.astype(int) - seen.twins).max(axis=-1)
        assert differs[seen.masks].mean() > 4 * differs[~seen.masks].mean()
        assert seen.masks.sum() == drawn.masks.sum()


def test_categories_of_a_batch_are_of_different_families() -> None:
    chosen = categories(np.random.default_rng(0), TRAINING, 6)
    assert len({category.family for category in chosen}) == 6


@pytest.mark.parametrize("name", ["clip", "diffusion", "pairs"])
def test_training_moves_the_weights_and_ships_them(name: str, tmp_path: Path) -> None:
    foundation, untrained = load_from(TINY, None), load_from(TINY, None)
    plan = TrainingPlan(tmp_path, 2, 1e-3, seed=0, warmup=1)
    kind = "diffusion" if name == "diffusion" else "clip"
    if kind == "diffusion":
        trainer = train_diffusion(foundation.diffusion, plan)
    else:
        pairs_of = untrained.diffusion if name == "pairs" else None
        trainer = train_clip(foundation.clip, TINY.encoder.levels, plan, pairs_of)
    written = export(tmp_path / "checkpoint.pt", kind, tmp_path / "shipped")
    assert [file.relative_to(tmp_path / "shipped").as_posix() for file in written] == list(FILES[kind].values())
    shipped = safetensors.torch.load_file(written[0])
    assert all(tensor.dtype == torch.float16 for tensor in shipped.values() if tensor.is_floating_point())
    assert set(shipped) == set(trainer.modules[next(iter(FILES[kind]))].state_dict())
    before = (untrained.diffusion.unet if kind == "diffusion" else untrained.clip.model).state_dict()
    assert any(not torch.equal(before[key].half(), shipped[key]) for key in shipped)


def test_training_sees_the_features_that_scoring_compares() -> None:
    from o2n.features import patch_features

    clip = load_from(TINY, None).clip
    pictures = draw(Category("coin", 1), 2, 0, 0).pictures
    features, whole = encode(clip, to_tensor(pictures), TINY.encoder.levels)
    assert torch.allclose(features, patch_features(clip, list(pictures), TINY.encoder.levels), atol=1e-6)
    assert whole.shape == (2, 128)
