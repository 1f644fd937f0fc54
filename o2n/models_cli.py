"""`o2n models`: fetch the models of a profile, and carry them to a site without a network."""

from pathlib import Path

import click

from o2n.options import profile_option
from o2n.profiles import Profile
from o2n.settings import get_settings


@click.group()
def models() -> None:
    """Fetch the models of a profile, and carry them to a site without a network."""


models_option = click.option(
    "--models",
    "root",
    type=click.Path(file_okay=False, writable=True, path_type=Path),
    callback=lambda context, parameter, root: root or get_settings().models or Path.home() / ".o2n" / "models",
    metavar="DIR",
    help="Folder of models. Default: $O2N_MODELS, else ~/.o2n/models.",
)


@models.command("pull")
@profile_option
@models_option
def pull_models(profile: Profile, root: Path) -> None:
    """Fetch what --profile needs from the model hub ($HF_ENDPOINT for another one), and verify it.

    Commit, licence and digests are kept in DIR/o2n-models.json; given again, the same commit is fetched. Set O2N_MODELS
    to the folder, and scoring uses what is in it.
    """
    from o2n import hub

    record = hub.pull(profile, root, lambda name: click.echo(name, err=True))
    for want in hub.wanted(profile):
        kept = record.repositories[want.repository]
        size = sum(file.size for file in kept.files.values())
        click.echo(f"{want.repository}  {kept.revision}  {size / 1e6:.1f} MB  licence: {kept.licence}")
    click.echo(f"export O2N_MODELS={root.absolute()}")


@models.command("pack")
@click.argument("file", type=click.Path(path_type=Path))
@profile_option
@models_option
def pack_models(file: Path, profile: Profile, root: Path) -> None:
    """Write the models of --profile, verified, into the tar FILE."""
    from o2n import hub

    hub.pack(profile, root, file)
    click.echo(f"{file}: {file.stat().st_size / 1e6:.1f} MB; 'o2n models unpack' takes it in on another machine")


@models.command("unpack")
@click.argument("file", type=click.Path(path_type=Path))
@models_option
def unpack_models(file: Path, root: Path) -> None:
    """Take the models in FILE in, verified."""
    from o2n import hub

    record = hub.unpack(file, root)
    click.echo(f"{', '.join(record.repositories)} in {root}\nexport O2N_MODELS={root.absolute()}")
