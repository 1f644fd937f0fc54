"""What `o2n doctor` looks at: each check returns lines to show, or raises an O2NError that says what to do."""

import os
import platform
from importlib import metadata

from o2n.errors import O2NError, cause_of
from o2n.files import file_digest
from o2n.objects import check_objects
from o2n.profiles import Profile
from o2n.settings import get_settings
from o2n.store import CategoryStore

_LIBRARIES = ("torch", "torchvision", "diffusers", "transformers", "open_clip_torch", "peft", "ray", "boto3")


def versions() -> list[str]:
    """Python and the libraries, FAISS in whichever of its wheels is installed; all of them are imported."""
    import torchvision

    try:
        import faiss
    except ImportError:
        raise O2NError("FAISS is missing: pip install 'o2n[cpu]', or 'o2n[gpu]' where there is a GPU") from None
    found = [f"{library} {metadata.version(library)}" for library in _LIBRARIES]
    return [
        f"python  {platform.python_version()} on {platform.platform()}",
        f"library o2n {metadata.version('o2n')}, {', '.join(found)}, faiss {faiss.__version__}",
        f"library torchvision {torchvision.__version__} can be imported",
    ]


def device() -> list[str]:
    """The device that scoring will use."""
    from o2n.device import pick_device, processor

    return [f"device  {pick_device()} ({processor()})"]


def models(profile: Profile) -> list[str]:
    """The profile's models, loaded."""
    from o2n.foundation import EMBEDDED, load_foundation
    from o2n.hub import verify

    foundation = load_foundation(profile)
    counts = {name: sum(p.numel() for p in model.parameters()) for name, model in foundation.models.items()}
    sizes = ", ".join(f"{name} {count / 1e6:.1f}M parameters" for name, count in counts.items())
    lines = [
        f"models  profile {profile.name}: {sizes}, identity {foundation.identity}",
        f"models  S_text by {profile.reads_by}",
    ]
    if root := get_settings().models:
        lines += [
            f"weights {repository} {kept.revision[:12]} in {root} whole, licence: {kept.licence}"
            for repository, kept in verify(profile, root).items()
        ]
    if "embedded" in (profile.encoder.source, profile.diffusion.source):
        files = sorted(EMBEDDED.rglob("*.safetensors"))
        lines += [
            f"weights {file.relative_to(EMBEDDED.parent)} {file.stat().st_size / 1e6:.1f} MB, sha256 "
            f"{file_digest(file)[:16]}"
            for file in files
        ]
        lines.append(f"card    {EMBEDDED / 'README.md'}: an embedded default, no substitute for SD 1.5 and ViT-L/14")
    return lines


def store(where: CategoryStore) -> list[str]:
    """The store, read and written."""
    check_objects(where.objects)
    return [f"store   {where.url} can be read and written, {len(where.categories())} categories"]


def ray() -> list[str]:
    """Ray, by the cluster this shell points to, or by its being importable."""
    import ray as ray_library

    address = os.environ.get("RAY_ADDRESS")
    if address is None:
        return [f"ray     {ray_library.__version__}, no cluster set (RAY_ADDRESS); jobs start a local one"]
    from ray.job_submission import JobSubmissionClient

    try:
        version = JobSubmissionClient(address).get_version()
    except Exception as error:  # the client raises whatever its HTTP library does
        raise O2NError(f"Ray at {address} (RAY_ADDRESS) does not answer: {cause_of(error)}") from None
    return [f"ray     {ray_library.__version__}, cluster at {address} answers (job API {version})"]
