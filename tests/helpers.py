"""What many tests need: a quick profile, pictures of two made-up categories, features, a real HTTP server."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
import uvicorn
from PIL import Image
from torch import Tensor

from o2n.images import Picture
from o2n.profiles import TINY, Profile

# The real models and every stage of the method, each as short as it can be.
QUICK: Profile = TINY.model_copy(
    update={
        "name": "quick",
        "diffusion": TINY.diffusion.model_copy(update={"steps": 4}),
        "customisation": TINY.customisation.model_copy(
            update={"steps": 2, "batch": 2, "augmentations": 2, "prior_pictures": 2}
        ),
        "pool": TINY.pool.model_copy(update={"pictures": 4, "warps": 2}),
        "t": 0.25,
        # Branches in their own units, in which scores are compared to 1e-5; `test_scales.py` has the calibrated ones.
        "fusion": "sum",
        "prompts": 2,
        "place_weights": (),  # `test_place_weight.py` chooses
    }
)


def stripes(seed: int, height: int = 96, width: int = 80) -> Picture:
    """A good part of the category `stripes`: slanted stripes with noise."""
    rng = np.random.default_rng([1, seed])
    y, x = np.mgrid[:height, :width]
    wave = 128 + 70 * np.sin((x + 0.4 * y) / 4 + rng.uniform(0, 6))
    return _picture(rng, wave, (1.0, 0.8, 0.6))


def checks(seed: int, height: int = 64, width: int = 64) -> Picture:
    """A good part of the category `checks`: a chequered board with noise."""
    rng = np.random.default_rng([2, seed])
    y, x = np.mgrid[:height, :width]
    board = 60 + 120 * (((x + rng.integers(8)) // 8 + (y + rng.integers(8)) // 8) % 2)
    return _picture(rng, board, (0.6, 0.9, 1.0))


def noisy(seed: int) -> Picture:
    """One part of the category `checks`, photographed again and again."""
    noise = np.random.default_rng(seed).normal(0, 8, (64, 64, 3))
    return np.clip(checks(0) + noise, 0, 255).astype(np.uint8)


def write(folder: Path, pictures: list[Picture]) -> Path:
    """Save pictures as 000.png, 001.png, … and return the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for index, picture in enumerate(pictures):
        Image.fromarray(picture).save(folder / f"{index:03}.png")
    return folder


def unit(*shape: int, seed: int = 0) -> Tensor:
    """Random features of length 1 along the last axis."""
    return F.normalize(torch.randn(shape, generator=torch.Generator().manual_seed(seed)), dim=-1)


def wait_until(true: Callable[[], object], what: str, seconds: float = 240.0) -> None:
    """Look again and again until it is; fails if that takes too long."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, f"no {what} in {seconds} s"
        time.sleep(0.2)


@contextmanager
def listening(app: Any, protocol: Any = "auto") -> Iterator[str]:
    """The URL of an ASGI application on a real uvicorn, in a thread of this process."""
    server = uvicorn.Server(uvicorn.Config(app, http=protocol, port=0, log_level="critical", lifespan="off"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(20)


def _picture(rng: np.random.Generator, grey: np.ndarray, tint: tuple[float, float, float]) -> Picture:
    noisy = grey[..., None] * np.array(tint) + rng.normal(0, 8, (*grey.shape, 3))
    return noisy.clip(0, 255).astype(np.uint8)
