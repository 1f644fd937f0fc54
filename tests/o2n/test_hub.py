"""Models pulled from a hub, packed, and loaded without one. The hub is a small HTTP server that speaks its file API."""

import hashlib
import io
import json
import re
import shutil
import tarfile
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import open_clip
import pytest
import safetensors.torch
import timm
import torch
from click.testing import CliRunner
from diffusers import UNet2DConditionModel
from timm.models import save_for_hf

from o2n.cli import main
from o2n.errors import FoundationError
from o2n.evaluation.blank import blank_clip
from o2n.foundation import EMBEDDED, load_from
from o2n.hub import RECORD, pack, pinned, pull, read_record, unpack, verify, wanted
from o2n.profiles import FAST, PAPER, TINY, EncoderSettings, Profile

COMMIT = "1" * 40
TIMM = "vit_small_patch14_dinov2.made_up"


class Hub:
    """repositories: name -> its folder. cut: files of which half is sent; swap: files whose content is another's.
    invented: names of files that it only lists."""

    def __init__(self) -> None:
        self.repositories: dict[str, Path] = {}
        self.cut: set[str] = set()
        self.swap: set[str] = set()
        self.invented: list[str] = []
        self.requests: list[str] = []
        self.url = ""

    def answer(self, path: str) -> tuple[int, dict[str, str], bytes, int]:
        """Status, headers, body, and how long it says that is."""
        parts = unquote(urlsplit(path).path).strip("/").split("/")
        api = parts[:2] == ["api", "models"]
        name = "/".join(parts[2:4] if api else parts[:2])
        folder = self.repositories.get(name)
        if folder is None:
            return 404, {"X-Error-Code": "RepoNotFound"}, b"", 0
        if api:
            files = [file for file in sorted(folder.rglob("*")) if file.is_file()]
            siblings = [self._sibling(folder, file) for file in files]
            siblings += [{"rfilename": name, "size": 1} for name in self.invented]
            told = {"id": name, "sha": COMMIT, "siblings": siblings, "cardData": {"license": "made-up-1.0"}}
            body = json.dumps(told).encode()
            return 200, {"Content-Type": "application/json"}, body, len(body)
        file = folder / "/".join(parts[4:])
        if parts[2] != "resolve" or not file.is_file():
            return 404, {"X-Error-Code": "EntryNotFound"}, b"", 0
        body = file.read_bytes()
        headers = {"ETag": f'"{hashlib.sha256(body).hexdigest()}"', "X-Repo-Commit": COMMIT}
        size = len(body)
        if file.name in self.swap:
            body = body[:-1] + bytes([body[-1] ^ 1])
        return 200, headers, body[: size // 2] if file.name in self.cut else body, size

    def _sibling(self, folder: Path, file: Path) -> dict[str, Any]:
        data = file.read_bytes()
        told: dict[str, Any] = {"rfilename": file.relative_to(folder).as_posix(), "size": len(data)}
        if file.suffix == ".safetensors":
            told["lfs"] = {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 100}
            data = b"what git keeps of a large file"
        return told | {"blobId": hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()}


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    served = Hub()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            served.requests.append(f"{self.command} {self.path}")
            status, headers, body, size = served.answer(self.path)
            begin = int((self.headers.get("Range") or "bytes=0-").removeprefix("bytes=").split("-")[0])
            self.send_response(206 if begin and status == 200 else status)
            for key, value in {**headers, "Content-Length": str(size - begin), "Accept-Ranges": "bytes"}.items():
                self.send_header(key, value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body[begin:])
                if len(body) < size:
                    self.close_connection = True

        def do_HEAD(self) -> None:
            self.do_GET()

        def log_message(self, *arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    served.url = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setenv("HF_ENDPOINT", served.url)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    yield served
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(scope="module")
def encoder_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    small = {"img_size": 28, "embed_dim": 24, "depth": 2, "num_heads": 2}
    folder = tmp_path_factory.mktemp("timm")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        model = timm.create_model(TIMM.split(".")[0], num_classes=0, **small)
    save_for_hf(model, folder, model_args=small, safe_serialization=True)
    return folder


@pytest.fixture
def profile(hub: Hub, diffusion_folder: Path, encoder_folder: Path, tmp_path: Path) -> Profile:
    """A latent diffusion model and a DINOv2 on the hub, the CLIP embedded."""
    repository = tmp_path / "repository"
    shutil.copytree(diffusion_folder, repository)
    (repository / "model_index.json").write_text('{"vae": ["diffusers", "AutoencoderKL"]}')
    (repository / "unet" / "diffusion_pytorch_model.bin").write_bytes(b"the same, pickled")
    hub.repositories = {"somebody/diffusion": repository, f"timm/{TIMM}": encoder_folder}
    return TINY.model_copy(
        update={
            "diffusion": TINY.diffusion.model_copy(update={"source": "somebody/diffusion"}),
            "patch_encoder": EncoderSettings(source=f"timm:{TIMM}", resolution=28, levels=(1, 2)),
        }
    )


def test_what_was_pulled_packed_and_unpacked_loads_without_a_hub(
    hub: Hub,
    profile: Profile,
    diffusion_folder: Path,
    encoder_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    written, near, far = tmp_path / "profile.json", tmp_path / "near", tmp_path / "far"
    written.write_text(profile.model_dump_json())
    run = CliRunner().invoke
    done = run(main, ["models", "pull", "--profile", str(written), "--models", str(near)], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    assert COMMIT in done.output
    assert "made-up-1.0" in done.output
    kept = read_record(near).repositories["somebody/diffusion"]
    assert "unet/diffusion_pytorch_model.bin" not in kept.files
    weights = diffusion_folder / "unet" / "diffusion_pytorch_model.safetensors"
    assert (
        kept.files["unet/diffusion_pytorch_model.safetensors"].sha256
        == hashlib.sha256(weights.read_bytes()).hexdigest()
    )

    before = len(hub.requests)
    pull(profile, near)  # all is there: nothing but the lists of files is asked for
    assert not [request for request in hub.requests[before:] if "resolve" in request]

    tar = tmp_path / "models.tar"
    assert run(main, ["models", "pack", str(tar), "--profile", str(written), "--models", str(near)]).exit_code == 0
    assert run(main, ["models", "unpack", str(tar), "--models", str(far)]).exit_code == 0
    assert verify(profile, far).keys() == {"somebody/diffusion", f"timm/{TIMM}"}

    hub.repositories = {}
    monkeypatch.setenv("O2N_MODELS", str(far))
    there = load_from(profile, EMBEDDED)
    monkeypatch.delenv("O2N_MODELS")
    directories = profile.model_copy(
        update={
            "diffusion": profile.diffusion.model_copy(update={"source": str(diffusion_folder)}),
            "patch_encoder": profile.comparing.model_copy(update={"source": str(encoder_folder)}),
        }
    )
    assert there.identity == load_from(directories, EMBEDDED).identity


def test_an_encoder_that_was_not_pulled_is_of_the_commit_that_the_profile_pins(
    hub: Hub, profile: Profile, encoder_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    made = {"diffusion": TINY.diffusion, "patch_encoder": profile.comparing.model_copy(update={"revision": COMMIT})}
    found = load_from(profile.model_copy(update=made), EMBEDDED)
    asked = [request for request in hub.requests if "safetensors" in request]
    assert asked
    assert all(f"/resolve/{COMMIT}/" in request for request in asked)
    made["patch_encoder"] = profile.comparing.model_copy(update={"source": str(encoder_folder)})
    assert found.identity == load_from(profile.model_copy(update=made), EMBEDDED).identity


def test_of_a_pinned_clip_the_weights_are_taken_and_of_one_that_is_not_nothing(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    want = wanted(PAPER)[0]
    (tmp_path / "clip").mkdir()
    (tmp_path / "clip" / "open_clip_model.safetensors").write_bytes(b"weights")
    hub.repositories = {want.repository: tmp_path / "clip"}
    folder = pinned(PAPER.encoder.model_copy(update={"revision": COMMIT}))
    assert folder is not None
    assert (folder / "open_clip_model.safetensors").read_bytes() == b"weights"
    assert all(f"/resolve/{COMMIT}/" in request for request in hub.requests)
    hub.requests.clear()
    for source in ("embedded", "ViT-L-14-quickgelu@openai", "a-model@of-no-repository", str(tmp_path)):
        assert pinned(EncoderSettings(source=source, resolution=64, levels=(1,))) is None
    assert pinned(TINY.encoder.model_copy(update={"revision": COMMIT})) is None
    assert not hub.requests


@pytest.mark.parametrize("index", ["{}", '{"vae": [null, null]}'])
def test_a_diffusion_model_of_pixels_has_no_autoencoder_to_pull(
    hub: Hub, profile: Profile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, index: str
) -> None:
    repository, models = hub.repositories["somebody/diffusion"], tmp_path / "models"
    shutil.rmtree(repository / "vae")
    (repository / "model_index.json").write_text(index)
    config = UNet2DConditionModel.load_config(repository / "unet")
    pixels = UNet2DConditionModel.from_config(config, in_channels=3, out_channels=3)
    pixels.save_pretrained(repository / "unet")
    pull(profile, models)
    verify(profile, models)
    monkeypatch.setenv("O2N_MODELS", str(models))
    assert load_from(profile, EMBEDDED).diffusion.latent_shape == (3, 64, 64)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda hub: hub.cut.add("diffusion_pytorch_model.safetensors"), "somebody/diffusion"),
        (lambda hub: hub.swap.add("model.safetensors"), r"model\.safetensors has digest"),
        (lambda hub: hub.swap.add("scheduler_config.json"), r"scheduler_config\.json has digest"),
        (lambda hub: (hub.repositories["somebody/diffusion"] / "vae" / "config.json").unlink(), "it has no vae"),
        (lambda hub: hub.repositories.clear(), "cannot be pulled"),
        (lambda hub: hub.invented.append("tokenizer/../../x.json"), "is no name of a file in a repository"),
    ],
    ids=["broken download", "altered weights", "altered config", "missing file", "missing repository", "name outside"],
)
def test_what_goes_wrong_is_told_and_nothing_of_it_is_used(
    hub: Hub, profile: Profile, tmp_path: Path, spoil: Any, said: str
) -> None:
    spoil(hub)
    with pytest.raises(FoundationError, match=said) as refused:
        pull(profile, tmp_path / "models")
    assert "\n" not in str(refused.value)
    assert "somebody/diffusion" not in read_record(tmp_path / "models").repositories
    hub.cut, hub.swap, hub.invented = set(), set(), []
    if (hub.repositories.get("somebody/diffusion", tmp_path) / "vae" / "config.json").exists():
        pull(profile, tmp_path / "models")  # what was broken is fetched again
        verify(profile, tmp_path / "models")


def test_what_changed_since_it_was_pulled_is_refused(
    hub: Hub, profile: Profile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    models = tmp_path / "models"
    pull(profile, models)
    weights = models / "somebody--diffusion" / "unet" / "diffusion_pytorch_model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    with pytest.raises(FoundationError, match="not what was pulled"):
        verify(profile, models)
    with pytest.raises(FoundationError, match="not what was pulled"):
        pack(profile, models, tmp_path / "models.tar")
    weights.write_bytes(data[:-1])
    monkeypatch.setenv("O2N_MODELS", str(models))
    with pytest.raises(FoundationError, match="not whole"):
        load_from(profile, EMBEDDED)
    # The hub has moved on, under the same commit: not what was noted down then.
    other = hub.repositories["somebody/diffusion"] / "unet" / "diffusion_pytorch_model.safetensors"
    other.write_bytes(other.read_bytes()[:-1] + b"?")
    with pytest.raises(FoundationError, match="digest"):
        pull(profile, models)


def test_another_commit_than_the_profile_pins_is_refused(
    hub: Hub, profile: Profile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    models = tmp_path / "models"
    pull(profile, models)
    monkeypatch.setenv("O2N_MODELS", str(models))

    def pinned(revision: str) -> Profile:
        return profile.model_copy(update={"diffusion": profile.diffusion.model_copy(update={"revision": revision})})

    for use in (lambda wanted: load_from(wanted, EMBEDDED), lambda wanted: verify(wanted, models)):
        with pytest.raises(FoundationError, match=f"was pulled at commit {COMMIT}, and the profile wants {'b' * 40}"):
            use(pinned("b" * 40))
        for same in (COMMIT, COMMIT[:7], "main"):
            use(pinned(same))


def test_all_that_the_shipped_profiles_take_from_the_hub_is_pinned() -> None:
    for profile, count in ((PAPER, 2), (FAST, 3), (TINY, 0)):
        pins = [one.revision or "" for one in wanted(profile)]
        assert len(pins) == count
        assert all(re.fullmatch("[0-9a-f]{40}", pin) for pin in pins)


def test_what_several_take_of_one_repository_is_kept_together(
    hub: Hub, profile: Profile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As CLIP and a vision transformer of timm do, whose weights lie side by side."""
    models, repository = tmp_path / "models", f"timm/{TIMM}"
    taken = pull(profile, models).repositories[repository].files
    monkeypatch.setattr("o2n.hub._TIMM_FILES", ("config.json",))
    assert len(taken) > 1
    assert pull(profile, models).repositories[repository].files == taken

    alone, tars = tmp_path / "alone", (tmp_path / "config.tar", tmp_path / "whole.tar")
    pull(profile, alone)
    pack(profile, alone, tars[0])
    monkeypatch.setattr("o2n.hub._TIMM_FILES", ("config.json", "model.safetensors"))
    pack(profile, models, tars[1])
    for order in (tars, tars[::-1]):
        there = tmp_path / f"after {order[0].stem}"
        for tar in order:
            unpack(tar, there)
        assert verify(profile, there)[repository].files == taken
    with pytest.raises(FoundationError, match=rf"{TIMM} in .*alone: it has no .*: 'o2n models pull' fetches it"):
        verify(profile, alone)


def test_places_that_cannot_be_written_to_are_told(hub: Hub, profile: Profile, tmp_path: Path) -> None:
    models = tmp_path / "models"
    pull(profile, models)
    for place in (tmp_path / "nowhere" / "models.tar", Path("/dev/full")):
        with pytest.raises(FoundationError, match=f"{place} cannot be written .*make room there"):
            pack(profile, models, place)
    assert sorted(path.name for path in models.iterdir() if path.is_file()) == [RECORD]
    pack(profile, models, tmp_path / "models.tar")
    with pytest.raises(FoundationError, match="folder /proc/models cannot be made"):
        unpack(tmp_path / "models.tar", Path("/proc/models"))
    with pytest.raises(FoundationError, match=r"nowhere.tar cannot be unpacked into .*check that it is there"):
        unpack(tmp_path / "nowhere.tar", models)


def test_a_tar_that_was_altered_is_refused(hub: Hub, profile: Profile, tmp_path: Path) -> None:
    models, tar = tmp_path / "models", tmp_path / "models.tar"
    pull(profile, models)
    pack(profile, models, tar)
    data = bytearray(tar.read_bytes())
    data[len(data) // 2] ^= 1
    tar.write_bytes(data)
    with pytest.raises(FoundationError):
        unpack(tar, tmp_path / "elsewhere")
    assert not (tmp_path / "elsewhere" / RECORD).exists()
    tar.write_bytes(b"no tar")
    with pytest.raises(FoundationError, match="no packed models"):
        unpack(tar, tmp_path / "elsewhere")


def hostile_tar(kind: str, file: Path) -> Path:
    """A package that is not what `pack` makes, of the repository somebody/diffusion with the file a.json."""
    data = b"{}"
    name = "../../a.json" if kind == "name outside" else "a.json"
    told = {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data)}
    record = {"repositories": {"somebody/diffusion": {"revision": COMMIT, "licence": "", "files": {name: told}}}}
    with tarfile.open(file, "w:gz" if kind == "compressed" else "w") as tar:
        for path, body in (
            (RECORD, json.dumps(record).encode()),
            (f"somebody--diffusion/{name}", data if kind != "larger" else data + b" " * 1000),
        ):
            info = tarfile.TarInfo(path)
            info.size = len(body)
            if kind == "link" and path != RECORD:
                info.type, info.linkname, info.size = tarfile.SYMTYPE, "/etc/hostname", 0
            tar.addfile(info, io.BytesIO(body))
    return file


@pytest.mark.parametrize("kind", ["name outside", "compressed", "larger", "link"])
def test_a_hostile_tar_writes_nothing_and_leaves_what_is_there(kind: str, tmp_path: Path) -> None:
    root = tmp_path / "deep" / "models"
    good = hostile_tar("none", tmp_path / "good.tar")
    unpack(good, root)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(FoundationError, match=r"bad\.tar") as refused:
        unpack(hostile_tar(kind, tmp_path / "bad.tar"), root)
    assert "\n" not in str(refused.value)
    (tmp_path / "bad.tar").unlink()
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_a_folder_of_models_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "models").write_text("in the way")
    tar = hostile_tar("none", tmp_path / "good.tar")
    done = CliRunner().invoke(main, ["models", "unpack", str(tar), "--models", str(tmp_path / "models")])
    assert done.exit_code == 2
    assert "is a file" in done.output


def test_weights_of_open_clip_are_found_by_their_name(hub: Hub, tmp_path: Path) -> None:
    """MODEL@WEIGHTS is short for a repository."""
    repository = tmp_path / "repository"
    repository.mkdir()
    (repository / "open_clip_config.json").write_text("{}")
    (repository / "open_clip_model.safetensors").write_bytes(b"weights")
    name = open_clip.get_pretrained_cfg("ViT-L-14-quickgelu", "openai")["hf_hub"].rstrip("/")
    assert name.count("/") == 1
    hub.repositories = {name: repository}
    record = pull(TINY.model_copy(update={"encoder": PAPER.encoder}), tmp_path / "models")
    assert set(record.repositories[name].files) == {"open_clip_config.json", "open_clip_model.safetensors"}
    assert any(f"/revision/{PAPER.encoder.revision}" in request for request in hub.requests)
    with pytest.raises(FoundationError, match="knows no repository"):
        pull(TINY.model_copy(update={"encoder": PAPER.encoder.model_copy(update={"source": "RN50@none"})}), tmp_path)


def test_weights_of_open_clip_are_loaded_as_it_knows_them(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of another normalisation than most, which neither the file of weights nor the model's name tells."""
    clip = json.loads((EMBEDDED / "clip" / "open_clip_config.json").read_text())["model_cfg"] | {"quick_gelu": True}
    (tmp_path / "made-up-quickgelu.json").write_text(json.dumps(clip))
    open_clip.add_model_config(tmp_path / "made-up-quickgelu.json")
    mean, std = (0.1, 0.2, 0.3), (0.6, 0.5, 0.4)
    known = {"here": {"hf_hub": "somebody/clip/", "mean": mean, "std": std, "quick_gelu": True}}
    monkeypatch.setitem(open_clip.pretrained._PRETRAINED, "made-up-quickgelu", known)
    blank_clip(clip, tmp_path / "clip")
    hub.repositories = {"somebody/clip": tmp_path / "clip"}
    encoder = TINY.encoder.model_copy(update={"source": "made-up-quickgelu@here"})
    profile = TINY.model_copy(update={"encoder": encoder})
    near, far, tar = (tmp_path / name for name in ("near", "far", "models.tar"))
    pull(profile, near)
    pack(profile, near, tar)
    unpack(tar, far)
    hub.repositories = {}
    monkeypatch.setenv("O2N_MODELS", str(far))
    loaded = load_from(profile, EMBEDDED).clip
    torch.testing.assert_close(loaded.mean.flatten().cpu(), torch.tensor(mean))
    torch.testing.assert_close(loaded.std.flatten().cpu(), torch.tensor(std))
    visual = loaded.model.visual
    assert any(isinstance(module, open_clip.transformer.QuickGELU) for module in visual.modules())
    saved = safetensors.torch.load_file(tmp_path / "clip" / "open_clip_model.safetensors")
    assert torch.equal(visual.conv1.weight.cpu(), saved["visual.conv1.weight"])


def test_an_embedded_profile_takes_nothing_from_a_hub(hub: Hub, tmp_path: Path) -> None:
    with pytest.raises(FoundationError, match="'tiny' takes nothing from the hub: there is nothing to pull"):
        pull(TINY, tmp_path / "none")
    assert not (tmp_path / "none").exists()
    assert hub.requests == []
    with pytest.raises(FoundationError, match="nothing to pack"):
        pack(TINY, tmp_path, tmp_path / "models.tar")
