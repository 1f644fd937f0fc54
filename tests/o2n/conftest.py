"""Tests of the library: models are loaded in this process, once."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import safetensors.torch
from diffusers.loaders.lora_base import LORA_ADAPTER_METADATA_KEY

from o2n.category import VersionRef
from o2n.customize import read_adapter
from o2n.evaluation.blank import blank_clip, blank_diffusion
from o2n.foundation import EMBEDDED, Foundation, load_foundation
from o2n.s3 import s3_client
from o2n.slots import SLOTS
from o2n.store import CategoryStore
from tests.helpers import QUICK
from tests.s3_answers import Answer, Forward, Server, serving


@pytest.fixture(scope="session")
def foundation() -> Foundation:
    return load_foundation(QUICK)


@pytest.fixture(scope="session")
def refs(published: CategoryStore) -> list[VersionRef]:
    """More versions than fit into the UNet at once, each with an adapter of its own."""
    base = published.manifest(published.current("checks"))
    metadata, weights = read_adapter(published.get_blob(base.blobs["adapter"]))
    found = []
    for number in range(SLOTS + 4):
        scaled = {f"unet.{key}": tensor * (1 + number / 4) for key, tensor in weights.items()}
        data = safetensors.torch.save(scaled, {LORA_ADAPTER_METADATA_KEY: json.dumps(metadata, sort_keys=True)})
        blobs = base.blobs | {"adapter": published.put_blob(data)}
        found.append(published.publish(base.model_copy(update={"category": f"scaled{number}", "blobs": blobs})))
    return found


@pytest.fixture(scope="session")
def clip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CLIP as small as the embedded one, in open_clip's hub layout."""
    folder = tmp_path_factory.mktemp("clip") / "model"
    blank_clip(json.loads((EMBEDDED / "clip" / "open_clip_config.json").read_text())["model_cfg"], folder)
    return folder


@pytest.fixture(scope="session")
def diffusion_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small diffusion model of latents in Stable Diffusion's layout."""
    folder = tmp_path_factory.mktemp("diffusion")
    unet = {
        "sample_size": 8,
        "block_out_channels": (8, 16),
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
        "layers_per_block": 1,
        "norm_num_groups": 4,
        "cross_attention_dim": 16,
        "attention_head_dim": 2,
    }
    vae = {
        "block_out_channels": (8, 8),
        "down_block_types": ("DownEncoderBlock2D",) * 2,
        "up_block_types": ("UpDecoderBlock2D",) * 2,
        "norm_num_groups": 4,
        "scaling_factor": 0.5,
    }
    text = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    blank_diffusion(unet, vae, text, folder)
    return folder


@pytest.fixture(params=["file", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, Callable[[str, bytes], None]]:
    """Where pictures lie, and what puts one there."""
    if request.param == "s3":
        bucket = request.getfixturevalue("bucket")
        client = s3_client()

        def put_object(key: str, data: bytes) -> None:
            client.put_object(Bucket=bucket, Key=f"in put/{key}", Body=data)

        return f"s3://{bucket}/in put", put_object

    def put(key: str, data: bytes) -> None:
        path = tmp_path / "in put" / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)

    return str(tmp_path / "in put"), put


@pytest.fixture
def answering(s3: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A server that is none of S3's, in its place."""
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    yield from serving(Answer, monkeypatch)


@pytest.fixture
def way(s3: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A way to the S3 server on which answers may be spoilt."""
    for server in serving(Forward, monkeypatch):
        server.to, server.spoil = s3, lambda command, status, data: (status, data)
        yield server
