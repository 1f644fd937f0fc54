"""Jobs submitted to a cluster as users submit them, and what they print."""

import json
from typing import Any

from infra.local.cluster import Cluster
from infra.local.deploy import ROOT


def ray_job(job: str, *arguments: str) -> tuple[str, ...]:
    """The command that submits a job and waits for its end."""
    submit = ("ray", "job", "submit", "--working-dir", str(ROOT), "--log-style=record", "--")
    return (*submit, "python", job, *arguments)


def run_job(cluster: Cluster, job: str, *arguments: str) -> tuple[bool, str]:
    """Whether the job succeeded, and all it printed."""
    done = cluster.run(*ray_job(job, *arguments))
    return done.returncode == 0, done.stdout + done.stderr


def summary(output: str) -> dict[str, Any]:
    """The last line of a job's own output that is JSON."""
    found: dict[str, Any] = json.loads([line for line in output.splitlines() if line.startswith("{")][-1])
    return found
