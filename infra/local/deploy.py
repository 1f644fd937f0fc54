"""What the demo, the stack, benchmarks and tests do with a local cluster: submit a job, deploy the service."""

import contextlib
import re
import tempfile
import time
from pathlib import Path
from typing import Any

import click
import httpx
import yaml
from tqdm import tqdm

from infra.local.cluster import Cluster, free_port
from o2n.errors import O2NError

ROOT = Path(__file__).parents[2]
READY_SECONDS = 420.0


class StepError(O2NError):
    """A step that did not do what it should."""


def step(what: str) -> None:
    """Say what comes next."""
    click.secho(f"\n▸ {what}", bold=True)


def submit(cluster: Cluster, job: str, *arguments: str) -> None:
    """`ray job submit`, its log shown as it comes."""
    command = ("ray", "job", "submit", "--working-dir", str(ROOT), "--", "python", job, *arguments)
    process = cluster.popen(*command)
    assert process.stdout is not None
    tail: list[str] = []
    for line in process.stdout:
        tail = [*tail[-30:], line.rstrip()]
        # The rest is Ray's own talk about how to follow a job.
        if re.match(r"\[\d+/\d+\]|error", line):
            click.echo(f"  {line.rstrip()}")
    if process.wait() != 0:
        raise StepError(f"{job} failed; its log ends with: {' | '.join(tail)}")


def deploy(
    cluster: Cluster,
    port: int | None = None,
    replicas: int | None = None,
    options: dict[str, dict[str, Any]] | None = None,
    **arguments: str | bool | float,
) -> str:
    """`serve deploy serve/config.yaml` on loopback, at `port` or a free one; the service's URL once it is ready.

    No tokens are asked for. `arguments` are put in place of those in the file, and so are `options` of a deployment, by
    its name. With `replicas` every deployment has just so many.
    """
    config = yaml.safe_load((ROOT / "serve" / "config.yaml").read_text())
    config["applications"][0]["args"] |= {"insecure": True, **arguments}
    for deployment in config["applications"][0]["deployments"] if replicas else ():
        # Not num_replicas: beside the builder's own autoscaling_config, Serve takes it for where scaling begins.
        deployment["autoscaling_config"] |= {"min_replicas": replicas, "max_replicas": replicas}
    for deployment in config["applications"][0]["deployments"]:
        deployment |= (options or {}).get(deployment["name"], {})
    config["http_options"] = {"host": "127.0.0.1", "port": port or free_port()}
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        yaml.safe_dump(config, file)
        file.flush()
        deployed = cluster.run("serve", "deploy", file.name)
    if deployed.returncode != 0:
        raise StepError(f"serve deploy failed: {(deployed.stderr or deployed.stdout)[-2000:]}")
    url = f"http://127.0.0.1:{config['http_options']['port']}"
    deadline = time.monotonic() + READY_SECONDS
    with tqdm(desc="  waiting for every branch", bar_format="{desc} {elapsed}", leave=False, disable=None) as bar:
        while time.monotonic() < deadline:
            with contextlib.suppress(httpx.HTTPError):
                if httpx.get(f"{url}/readyz", timeout=10).status_code == 200:
                    return url
            bar.update()
            time.sleep(1)
    status = cluster.run("serve", "status").stdout
    raise StepError(f"the service was not ready after {READY_SECONDS:.0f} s; serve status: {status[-2000:]}")
