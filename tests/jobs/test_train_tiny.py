"""The job that trains the embedded models: each training builds on those before it, or tells what is missing."""

import subprocess
import sys
from pathlib import Path

import safetensors.torch
import torch

from o2n.foundation import load_from
from o2n.profiles import TINY
from o2n.tiny.text_tower import read_as_clip
from o2n.tiny.weights import averaged


def train(*options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "jobs/train_tiny.py", *options], capture_output=True, text=True)


def test_the_diffusion_model_reads_with_the_clip_that_was_trained_before_it(tmp_path: Path) -> None:
    folder, into = str(tmp_path), str(tmp_path / "shipped")
    steps = ("--clip-steps", "1", "--diffusion-steps", "1", "--pairs-steps", "1")
    done = train("--folder", folder, "--into", into, *steps)
    assert done.returncode == 0, done.stderr
    wanted = load_from(TINY, None)
    wanted.clip.model.load_state_dict(averaged(tmp_path / "clip" / "checkpoint.pt")["clip"])
    read_as_clip(wanted.diffusion, wanted.clip)
    shipped = safetensors.torch.load_file(tmp_path / "shipped" / "diffusion" / "text_encoder" / "model.safetensors")
    for name, weight in wanted.diffusion.text_encoder.state_dict().items():
        assert torch.equal(weight.half(), shipped[name])
    tuned = averaged(tmp_path / "pairs" / "checkpoint.pt")["clip"]
    of_clip = safetensors.torch.load_file(tmp_path / "shipped" / "clip" / "open_clip_model.safetensors")
    assert all(torch.equal(tuned[name].half(), weight) for name, weight in of_clip.items())


def test_a_training_without_those_before_it_is_refused_in_one_line(tmp_path: Path) -> None:
    for only in ("diffusion", "pairs", "export"):
        done = train("--folder", str(tmp_path), "--only", only, "--into", str(tmp_path / "shipped"))
        assert done.returncode == 1
        assert done.stderr.splitlines() == [
            f"error: there is no {tmp_path}/clip/checkpoint.pt: run the training 'clip' first, in that --folder"
        ]
