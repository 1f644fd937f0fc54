"""`make stack`: an S3 server, a Ray cluster and the service on one machine, until Ctrl-C.

All on loopback, with keys and tokens that are made anew each time and written to a file that only its owner may read.
With --s3, an S3 server that runs already and keeps what it holds takes the place of the one in memory.
"""

import os
import shlex
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import boto3
import click
import psutil
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from infra.local.cluster import Cluster, local_cluster
from infra.local.deploy import deploy, step
from infra.local.s3 import BUCKET, private_s3, s3_environment
from o2n.errors import ConflictError, O2NError, StoreError
from o2n.interrupt import until_interrupted
from o2n.options import OneLineErrorsCommand
from o2n.profiles import get_profile
from o2n.store import CategoryStore
from o2n.tokens import SCOPES, create_token, revoke_token

STORE = f"s3://{BUCKET}/store"
TOKEN_NAME = "stack"


@click.command(cls=OneLineErrorsCommand)
@click.option("--port", default=8000, show_default=True, type=click.IntRange(1, 65535), help="Of the service.")
@click.option("--profile", default="tiny", show_default=True, help="Models and settings, as for o2n onboard.")
@click.option("--s3", metavar="URL", help="An S3 server that runs already; its keys are $AWS_ACCESS_KEY_ID and so on.")
@click.option("--output", type=click.Path(path_type=Path), default=Path("o2n-stack"), show_default=True, metavar="DIR")
def main(port: int, profile: str, s3: str | None, output: Path) -> None:
    """Run S3, Ray and the service on this machine until Ctrl-C."""
    until_interrupted()
    with suppress(KeyboardInterrupt):
        run(port, profile, s3, output.resolve())


def run(port: int, profile: str, s3: str | None, output: Path) -> None:
    """Start everything, say where it is, and wait.

    Raises:
        O2NError: a part that did not start; those that did are stopped.
    """
    get_profile(profile)
    with running_s3(s3) as environment:
        for variable in [name for name in os.environ if name.startswith("AWS_")]:
            del os.environ[variable]
        os.environ.update(environment)
        step("making a bucket and a token on S3")
        make_bucket()
        token = make_token()
        step("starting a Ray cluster")
        with local_cluster(cpus=max(6, psutil.cpu_count() or 1), store=STORE) as cluster, watched(cluster):
            step("deploying serve/config.yaml (serve deploy)")
            url = deploy(cluster, port=port, profile=profile, insecure=False)
            ray = ("RAY_ADDRESS", "RAY_DASHBOARD_ADDRESS", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN")
            variables = {
                "O2N_STORE": STORE,
                "O2N_URL": url,
                "O2N_TOKEN": token,
                **environment,
                **{name: cluster.environment[name] for name in ray},
            }
            kept = "" if s3 else ", in memory: what it holds is gone when it stops"
            step("serving")
            with environment_file(output, variables) as file:
                click.echo(f"S3         {environment['O2N_S3_ENDPOINT']}, bucket {BUCKET}{kept}")
                click.echo(f"dashboard  {cluster.dashboard}, with $RAY_AUTH_TOKEN")
                click.echo(f"service    {url}\n\nin another terminal:\n")
                click.echo(f"  source {shlex.quote(str(file))}")
                click.echo(f"  {Path(sys.executable).with_name('o2n')} onboard bolts --references DIR")
                click.echo(
                    '  curl -H "Authorization: Bearer $O2N_TOKEN" -F pictures=@new.png '
                    "$O2N_URL/v1/categories/bolts/score"
                )
                click.echo("\nCtrl-C stops all of it")
                while runs(cluster):
                    time.sleep(1)
                raise O2NError("the Ray cluster is gone")


@contextmanager
def running_s3(url: str | None) -> Iterator[dict[str, str]]:
    """The environment of an S3 server: the one at `url`, or one of our own while the context lasts."""
    if url is None:
        with private_s3() as environment:
            yield environment
        return
    try:
        keys = os.environ["AWS_ACCESS_KEY_ID"], os.environ["AWS_SECRET_ACCESS_KEY"]
    except KeyError as missing:
        raise O2NError(f"{missing.args[0]} is not set: set it to a key of the S3 server at {url}") from None
    yield s3_environment(url, *keys)


@contextmanager
def watched(cluster: Cluster) -> Iterator[None]:
    """Where the cluster has ended by itself, say so and why, in place of what that led to."""
    try:
        yield
    except O2NError:
        if runs(cluster):
            raise
        log = (cluster.logs / "ray-start.log").read_text()
        raise O2NError(f"the Ray cluster has ended by itself; its log ends with: {log[-1000:]}") from None


def runs(cluster: Cluster) -> bool:
    """Whether its head is alive."""
    try:
        return psutil.Process(cluster.head).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def make_bucket() -> None:
    """Create the bucket, if it is not there.

    Raises:
        StoreError: the S3 server does not let us.
    """
    try:
        once = Config(connect_timeout=10, retries={"total_max_attempts": 1})
        boto3.client("s3", endpoint_url=os.environ["O2N_S3_ENDPOINT"], config=once).create_bucket(Bucket=BUCKET)
    except (BotoCoreError, ClientError) as error:
        code = error.response["Error"]["Code"] if isinstance(error, ClientError) else ""
        if code not in ("BucketAlreadyOwnedByYou", "BucketAlreadyExists"):
            raise StoreError(f"bucket {BUCKET} cannot be made ({error}): check the S3 server and its keys") from None


def make_token() -> str:
    """A token of the service with every scope, in place of an earlier run's."""
    store = CategoryStore(STORE)
    try:
        return create_token(store, TOKEN_NAME, list(SCOPES))
    except ConflictError:
        revoke_token(store, TOKEN_NAME)
        return create_token(store, TOKEN_NAME, list(SCOPES))


@contextmanager
def environment_file(folder: Path, variables: dict[str, str]) -> Iterator[Path]:
    """Lines for a shell to source, readable for their owner alone, while the context lasts."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "environment"
    file.unlink(missing_ok=True)
    file.touch(mode=0o600)
    file.write_text("".join(f"export {name}={shlex.quote(value)}\n" for name, value in variables.items()))
    try:
        yield file
    finally:
        file.unlink(missing_ok=True)


if __name__ == "__main__":
    main()
