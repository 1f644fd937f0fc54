"""A profile's models: from the hub into a directory, verified, and on to a site without a network.

The directory, `O2N_MODELS`, holds one folder per repository, in the repository's own layout, and `o2n-models.json`:
what was taken from which commit, under which licence, and the digest of every file.
"""

import fnmatch
import hashlib
import io
import json
import os
import re
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from o2n.category import Digest
from o2n.errors import FoundationError, cause_of
from o2n.files import file_digest, replacing
from o2n.profiles import EncoderSettings, Profile
from o2n.settings import get_settings

TIMM = "timm:"

RECORD = "o2n-models.json"
_LONGEST_RECORD = 16 << 20  # bytes; one of all profiles has 10 KB

_CLIP_FILES = ("open_clip_config.json", "open_clip_model.safetensors")
_TIMM_FILES = ("config.json", "model.safetensors")
_VAE_FILES = ("config.json", "diffusion_pytorch_model.safetensors")
# A repository has more than this, such as the same weights in other forms.
_DIFFUSION_FILES = (
    "model_index.json",
    "scheduler/scheduler_config.json",
    "text_encoder/config.json",
    "text_encoder/model.safetensors",
    "tokenizer/*",
    "unet/config.json",
    "unet/diffusion_pytorch_model.safetensors",
    "vae/config.json",
    "vae/diffusion_pytorch_model.safetensors",
)


def _inside(name: str) -> str:
    parts = name.split("/")
    if not all(parts) or {".", ".."} & set(parts) or {"\\", "\0"} & set(name):
        raise ValueError(f"{name!r} is no name of a file in a repository")
    return name


# Of a repository or of a file in one; joined to a folder, it cannot leave it.
InsideName = Annotated[str, AfterValidator(_inside)]
_COMMIT = re.compile(r"[0-9a-f]{7,40}")  # and no branch or tag
_OFFERED = re.compile(r"[^/.~][^/]*(/[^/]+)?")  # by a hub: OWNER/NAME, MODEL@WEIGHTS, timm:MODEL; else it is a path


class RecordedFile(BaseModel):
    """What a file was when it was pulled."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    sha256: Digest
    size: int = Field(ge=0)


class RecordedRepository(BaseModel):
    """What was pulled of a repository."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    revision: str = Field(description="the commit")
    licence: str = Field(description="as the repository states it")
    files: dict[InsideName, RecordedFile]


class Record(BaseModel):
    """`o2n-models.json`: repository -> what was pulled of it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    repositories: dict[InsideName, RecordedRepository] = {}


@dataclass(frozen=True)
class Wanted:
    """What a profile needs of a repository: names or patterns of files, and the commit, if it is pinned."""

    repository: str
    files: tuple[str, ...]
    revision: str | None = None


def wanted(profile: Profile) -> list[Wanted]:
    """What a profile takes from the hub; nothing of what is embedded or a directory.

    Raises:
        FoundationError: an encoder's weights that the hub does not have, or a path where nothing is.
    """
    found = [_of_encoder(settings) for settings in (profile.encoder, profile.patch_encoder) if settings]
    model = profile.diffusion
    if _is_remote(model.source):
        found.append(Wanted(model.source, _DIFFUSION_FILES, model.revision))
    if model.small_vae and _is_remote(model.small_vae):
        found.append(Wanted(model.small_vae, _VAE_FILES, model.small_vae_revision))
    return [one for one in found if one]


def pulled(source: str, revision: str | None = None) -> Path | None:
    """The folder of a repository, or of the weights of an encoder, in `O2N_MODELS`, if they were pulled there.

    Raises:
        FoundationError: a file of it is missing or has another size than it had, or it is not of the commit `revision`;
            or `source` is a path where nothing is.
    """
    root = get_settings().models
    if not _is_remote(source) or root is None:
        return None
    name = _repository(source)
    kept = read_record(root).repositories.get(name)
    if kept is None:
        return None
    _check_commit(name, kept, revision)
    folder = _folder(root, name)
    for file, told in kept.files.items():
        if not (folder / file).is_file() or (folder / file).stat().st_size != told.size:
            raise FoundationError(f"{folder / file} is not whole: 'o2n models pull' fetches it again")
    return folder


def pinned(settings: EncoderSettings) -> Path | None:
    """The folder of what an encoder is loaded from in the hub client's own cache, of the commit that the profile pins;
    None where it pins none, or takes the encoder from elsewhere. open_clip and timm themselves take the newest.

    Raises: what the hub's client raises.
    """
    from huggingface_hub import hf_hub_download

    want = _of_encoder(settings) if settings.revision else None
    if want is None:
        return None
    endpoint = os.environ.get("HF_ENDPOINT")
    read = [name for name in want.files if name != "open_clip_config.json"]  # what it says, open_clip knows by the name
    taken = [hf_hub_download(want.repository, name, revision=want.revision, endpoint=endpoint) for name in read]
    return Path(taken[0]).parent


def _check_commit(repository: str, kept: RecordedRepository, revision: str | None) -> None:
    if revision and _COMMIT.fullmatch(revision) and not kept.revision.startswith(revision):
        raise FoundationError(
            f"{repository} was pulled at commit {kept.revision}, and the profile wants {revision}: "
            "'o2n models pull' fetches it"
        )


def pull(profile: Profile, root: Path, on_file: Callable[[str], None] = lambda name: None) -> Record:
    """Take what `profile` needs from the hub ($HF_ENDPOINT, where it is another) into `root`, and note it down.

    A commit once noted down is kept to. Files that are there already, and what they should be, are not taken again.

    Raises:
        FoundationError: the hub cannot be reached, a file is missing there, broken, or not what it was; or `profile`
            needs nothing from it.
    """
    needed = wanted(profile)
    if not needed:
        raise FoundationError(f"profile {profile.name!r} takes nothing from the hub: there is nothing to pull")
    record = read_record(root)
    for want in needed:
        record = _with(record, {want.repository: _pull(want, root, record, on_file)}, root)
        _note(root, record)
    return record


def verify(profile: Profile, root: Path) -> dict[str, RecordedRepository]:
    """Every file of `profile` in `root` read, and its digest compared with what was noted down.

    Raises:
        FoundationError: something was never pulled, is missing, was altered, or is of another commit.
    """
    record, found = read_record(root), {}
    for want in wanted(profile):
        kept = record.repositories.get(want.repository)
        if kept is None:
            raise FoundationError(f"{want.repository} is not in {root}: 'o2n models pull' fetches it")
        _check_commit(want.repository, kept, want.revision)
        for name, told in kept.files.items():
            _check(_folder(root, want.repository) / name, told)
        try:
            list(_chosen(want, list(kept.files), _folder(root, want.repository)))
        except FoundationError as error:
            raise FoundationError(f"{want.repository} in {root}: {error}: 'o2n models pull' fetches it") from None
        found[want.repository] = kept
    return found


def pack(profile: Profile, root: Path, file: Path) -> None:
    """All of `profile`'s models in `root`, verified, as one tar file, for `unpack` elsewhere; raises as `verify`."""
    found = verify(profile, root)
    if not found:
        raise FoundationError(f"profile {profile.name!r} takes nothing from the hub: there is nothing to pack")
    record = Record(repositories=found).model_dump_json(indent=1).encode()
    told = tarfile.TarInfo(RECORD)
    told.size = len(record)
    try:
        with tarfile.open(file, "w") as tar:
            tar.addfile(told, io.BytesIO(record))
            for repository, kept in found.items():
                for name in kept.files:
                    path = _folder(root, repository) / name
                    tar.add(path, path.relative_to(root).as_posix())
    except OSError as error:
        raise FoundationError(f"{file} cannot be written ({error}): make room there, or give another file") from None


def unpack(file: Path, root: Path) -> Record:
    """What `pack` made -> `root`, verified, beside what is there already.

    Raises:
        FoundationError: no such file, or it was altered; `root` is as it was then.
    """
    try:
        root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FoundationError(f"folder {root} cannot be made ({error}): give another") from None
    before = read_record(root)
    with tempfile.TemporaryDirectory(dir=root) as new:
        try:
            with tarfile.open(file, "r:") as tar:
                packed = tar.extractfile(RECORD)
                record = Record.model_validate_json(packed.read(_LONGEST_RECORD) if packed else b"")
                told = {
                    (_folder(root, repository) / name).relative_to(root): told
                    for repository, kept in record.repositories.items()
                    for name, told in kept.files.items()
                }
                sizes = {path.as_posix(): one.size for path, one in told.items()}
                # Nothing but the files it names, of the sizes it names, and no links or devices.
                members = [member for member in tar if member.isreg() and sizes.get(member.name) == member.size]
                tar.extractall(new, members, filter="data")
        except OSError as error:
            raise FoundationError(
                f"{file} cannot be unpacked into {root} ({error}): check that it is there, and that there is room"
            ) from None
        except (tarfile.TarError, ValidationError, KeyError, ValueError) as error:
            raise FoundationError(
                f"{file} holds no packed models ({cause_of(error)}): make it with 'o2n models pack'"
            ) from None
        for path, one in told.items():
            if not _is(Path(new, path), one):
                raise FoundationError(f"{file}: {path} is missing or not what was packed: fetch the file anew")
        for path in told:
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            Path(new, path).replace(root / path)
    _note(root, _with(before, record.repositories, root))
    return record


def read_record(root: Path) -> Record:
    """What `root` holds; nothing, where nothing was pulled yet.

    Raises:
        FoundationError: its record was altered.
    """
    try:
        return Record.model_validate_json((root / RECORD).read_bytes())
    except FileNotFoundError:
        return Record()
    except (OSError, ValidationError) as error:
        raise FoundationError(f"{root / RECORD} cannot be read ({cause_of(error)}): pull into another folder") from None


def _with(record: Record, taken: dict[str, RecordedRepository], root: Path) -> Record:
    """A record with what was taken since. Of a repository at the same commit other files stay, if they are still there:
    another part takes them, or another profile."""
    repositories = dict(record.repositories)
    for name, new in taken.items():
        before, folder = repositories.get(name), _folder(root, name)
        others = before.files if before and before.revision == new.revision else {}
        there = {file: told for file, told in others.items() if (folder / file).is_file()}
        repositories[name] = new.model_copy(update={"files": {**there, **new.files}})
    return Record(repositories=repositories)


def _note(root: Path, record: Record) -> None:
    with replacing(root / RECORD) as part:
        part.write_text(record.model_dump_json(indent=1))


def _pull(want: Wanted, root: Path, record: Record, on_file: Callable[[str], None]) -> RecordedRepository:
    from huggingface_hub import HfApi, hf_hub_download

    endpoint = os.environ.get("HF_ENDPOINT")
    before = record.repositories.get(want.repository)
    revision = want.revision or (before.revision if before else None)
    folder = _folder(root, want.repository)
    try:
        info = HfApi(endpoint=endpoint).model_info(want.repository, revision=revision, files_metadata=True)
        offered = {file.rfilename: file for file in info.siblings or []}
        files = {}
        for name in _chosen(want, list(offered), folder):
            told = before.files.get(name) if before and before.revision == info.sha else None
            if told is None or not _is(folder / name, told):
                on_file(f"{want.repository} {name}")
                hf_hub_download(want.repository, name, revision=info.sha, local_dir=folder, endpoint=endpoint)
            found = RecordedFile(sha256=file_digest(folder / name), size=(folder / name).stat().st_size)
            large = offered[name].lfs
            digest, promised = found.sha256, told.sha256 if told else large.sha256 if large else None
            if promised is None:  # of small files a hub has no digest but git's
                digest, promised = _git_blob(folder / name), offered[name].blob_id
            if promised and digest != promised:
                (folder / name).unlink()
                raise FoundationError(f"{name} has digest {digest[:16]}, not {promised[:16]} as it should")
            files[name] = found
    except Exception as error:  # the hub's client raises its own kinds and those of its HTTP library
        cause = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise FoundationError(
            f"{want.repository}{f' at {revision}' if revision else ''} cannot be pulled ({cause[:300]}): check the "
            "name, the network and $HF_ENDPOINT, then give the command again"
        ) from error
    card = info.card_data
    licence = str(card.get("license")) if card and card.get("license") else "not stated"
    return RecordedRepository(revision=info.sha or "", licence=licence, files=files)


def _chosen(want: Wanted, offered: list[str], folder: Path) -> Iterator[str]:
    """The files to take, one by one: what comes after the index of a diffusion model may depend on it."""
    for pattern in want.files:
        found = fnmatch.filter(offered, pattern)
        if not found and not (pattern.startswith("vae/") and _of_pixels(folder)):
            raise FoundationError(f"it has no {pattern}")
        yield from map(_inside, sorted(found))


def _of_pixels(folder: Path) -> bool:
    """Whether the diffusion model in `folder` says that it has no autoencoder."""
    return not any(json.loads((folder / "model_index.json").read_bytes()).get("vae") or ())


def _of_encoder(settings: EncoderSettings) -> Wanted | None:
    if not _is_remote(settings.source):
        return None
    files = _TIMM_FILES if settings.source.startswith(TIMM) else _CLIP_FILES
    return Wanted(_repository(settings.source), files, settings.revision)


def _repository(source: str) -> str:
    """The repository that a source is short for: timm:MODEL.WEIGHTS, MODEL@WEIGHTS of open_clip, or its own name."""
    if source.startswith(TIMM):
        return f"timm/{source.removeprefix(TIMM)}"
    if "@" in source:
        import open_clip

        known = open_clip.get_pretrained_cfg(*source.split("@", 1))
        if not known.get("hf_hub", "").endswith("/"):
            raise FoundationError(f"open_clip knows no repository with the weights of {source!r}: give a directory")
        return str(known["hf_hub"].rstrip("/"))
    return source


def _is_remote(source: str) -> bool:
    if source == "embedded" or Path(source).is_dir():
        return False
    if not _OFFERED.fullmatch(source):
        raise FoundationError(f"there is no directory {source}")
    return True


def _folder(root: Path, repository: str) -> Path:
    return root / repository.replace("/", "--")


def _is(file: Path, told: RecordedFile) -> bool:
    return file.is_file() and file.stat().st_size == told.size and file_digest(file) == told.sha256


def _check(file: Path, told: RecordedFile) -> None:
    if not _is(file, told):
        raise FoundationError(f"{file} is missing or not what was pulled: 'o2n models pull' fetches it again")


def _git_blob(file: Path) -> str:
    """What git calls a file's content (git-scm.com/book/en/v2/Git-Internals-Git-Objects)."""
    data = file.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()
