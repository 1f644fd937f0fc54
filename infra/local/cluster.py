"""A Ray cluster of one's own on this machine: never attaches to another, never stops another.

Every process of the cluster descends from its head or carries its mark in its environment, and stopping kills just
these; `ray stop` would stop every cluster on the machine.
"""

import os
import random
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil

from o2n.errors import O2NError
from serve import CLUSTER_ENVIRONMENT

START_SECONDS = 90.0
# Between those of Ray's workers (10002-19999) and Linux's ephemeral ones (from 32768).
PORTS = (20000, 32768)

_MARK = "O2N_LOCAL_CLUSTER"


@dataclass(frozen=True)
class Cluster:
    """How to reach a running cluster: `environment` is what a child process needs to use it; `address` is what further
    nodes join."""

    dashboard: str
    address: str
    environment: dict[str, str]
    mark: str
    logs: Path
    head: int

    def run(self, *command: str, **options: object) -> "subprocess.CompletedProcess[str]":
        """Run a command of the virtual environment against this cluster; output is captured as text."""
        return subprocess.run(
            [*_executable(command[0]), *command[1:]],
            env=self.environment,
            text=True,
            capture_output=True,
            check=False,
            **options,  # type: ignore[call-overload]
        )

    def popen(self, *command: str) -> "subprocess.Popen[str]":
        """Start a command against this cluster; its output can be read line by line while it runs."""
        return subprocess.Popen(
            [*_executable(command[0]), *command[1:]],
            env=self.environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )

    def takes_jobs(self) -> bool:
        """Whether the job server answers and the head's agent, which starts the jobs, listens.

        Raises:
            httpx.HTTPError: nobody answers.
        """
        # An agent that could not listen writes -1 and lives on; Ray then refuses every job.
        ports = (self.logs / "session_latest").glob("dashboard_agent_listen_port_*")
        return self._get("/api/jobs/").status_code == 200 and any(int(port.read_text() or -1) > 0 for port in ports)

    def nodes(self) -> dict[str, str]:
        """The nodes that are alive: their ids by their names; httpx.HTTPError if nobody answers."""
        nodes = self._get("/api/v0/nodes").raise_for_status().json()["data"]["result"]["result"]
        return {node["node_name"]: node["node_id"] for node in nodes if node["state"] == "ALIVE"}

    def _get(self, path: str) -> httpx.Response:
        headers = {"Authorization": f"Bearer {self.environment['RAY_AUTH_TOKEN']}"}
        return httpx.get(self.dashboard + path, headers=headers, timeout=10)

    def add_node(self, name: str, cpus: int) -> psutil.Process:
        """Start a further node on this machine, of a raylet and an object store of its own.

        Returns: the process that all of the node's descend from; see `kill_node`.

        Raises:
            O2NError: it did not come up in time; the message has the end of its log.
        """
        environment = {variable: value for variable, value in self.environment.items() if variable != "RAY_ADDRESS"}
        command = [
            *_executable("ray"),
            "start",
            f"--address={self.address}",
            "--block",
            "--node-ip-address=127.0.0.1",
            f"--node-name={name}",
            f"--num-cpus={cpus}",
            "--dashboard-agent-listen-port=0",
            f"--object-store-memory={256 << 20}",
            "--disable-usage-stats",
        ]
        log = self.logs / f"ray-start-{name}.log"
        with log.open("w") as output:
            node = subprocess.Popen(command, env=environment, stdout=output, stderr=subprocess.STDOUT)
        # Two that come up on one machine at the same time take each other's ports.
        _wait_until_up(node, log, lambda: name in self.nodes())
        return psutil.Process(node.pid)

    def processes(self) -> list[psutil.Process]:
        """Every process of this cluster that is alive."""
        found: set[psutil.Process] = set()
        with suppress(psutil.Error):
            # Ray's agents write their title over their environment, so their mark cannot be read.
            head = psutil.Process(self.head)
            found.update([head, *head.children(recursive=True)])
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                if process.environ().get(_MARK) == self.mark:
                    found.add(process)
        return _alive(found)


def kill_node(node: psutil.Process) -> None:
    """End a node of `Cluster.add_node` as a power cut would: every process of it at once."""
    for process in [*node.children(recursive=True), node]:
        with suppress(psutil.Error):
            process.kill()


@contextmanager
def local_cluster(*, cpus: int, store: str) -> Iterator[Cluster]:
    """Start a cluster with its dashboard and job server on loopback, and stop it, and nothing else, at the end.

    It asks for a token, which only `environment` carries.

    Args:
        cpus: what Ray may place, in cores; not a limit on what processes use.
        store: URL of the store that jobs and services on the cluster use by default.

    Raises:
        O2NError: the cluster did not come up in time; the message has the end of its log.
    """
    mark = secrets.token_hex(8)
    # Ray puts sockets below this folder, and a socket's path may not be longer than 107 bytes.
    folder = Path(tempfile.mkdtemp(prefix="o2n-", dir="/tmp"))
    dashboard_port, port = free_port(), free_port()
    dashboard = f"http://127.0.0.1:{dashboard_port}"
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("RAY_")},
        _MARK: mark,
        "O2N_STORE": store,
        "RAY_ADDRESS": dashboard,  # of `ray job`
        "RAY_DASHBOARD_ADDRESS": dashboard,  # of `serve`
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "RAY_USAGE_STATS_ENABLED": "0",
        # By default Ray puts its workers, and so every replica, behind whatever else the machine does.
        "RAY_worker_niceness": "0",
        "RAY_SERVE_LOG_TO_STDERR": "0",
        **CLUSTER_ENVIRONMENT,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}",
    }
    log = folder / "ray-start.log"
    command = [
        *_executable("ray"),
        "start",
        "--head",
        "--block",
        "--node-ip-address=127.0.0.1",
        f"--port={port}",
        f"--dashboard-port={dashboard_port}",
        "--dashboard-agent-listen-port=0",
        f"--ray-client-server-port={free_port()}",
        f"--num-cpus={cpus}",
        f"--object-store-memory={512 << 20}",
        f"--temp-dir={folder}",
        "--disable-usage-stats",
    ]
    with log.open("w") as output:
        start_environment = {name: value for name, value in environment.items() if name != "RAY_ADDRESS"}
        head = subprocess.Popen(command, env=start_environment, stdout=output, stderr=subprocess.STDOUT)
    cluster = Cluster(dashboard, f"127.0.0.1:{port}", environment, mark, folder, head.pid)
    try:
        _wait_until_up(head, log, lambda: cluster.takes_jobs() and bool(cluster.nodes()))
        yield cluster
    finally:
        _stop(cluster, head)
        shutil.rmtree(folder, ignore_errors=True)


def free_port() -> int:
    """A port of loopback that nobody listens on just now.

    It is below those that Linux gives to outgoing connections by default: one of these could take it before its user.
    """
    while True:
        port = random.randrange(*PORTS)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def _executable(name: str) -> list[str]:
    """A command of this very virtual environment, whether it is activated or not."""
    return [sys.executable] if name == "python" else [str(Path(sys.executable).with_name(name))]


def _wait_until_up(node: "subprocess.Popen[bytes]", log: Path, is_up: Callable[[], bool]) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and node.poll() is None:
        with suppress(httpx.HTTPError):
            if is_up():
                return
        time.sleep(0.5)
    raise O2NError(f"the Ray cluster did not come up; its log ends with: {log.read_text()[-1000:]}")


def _stop(cluster: Cluster, head: "subprocess.Popen[bytes]") -> None:
    known = set(cluster.processes())  # once the head is gone, who descended from it can no longer be told
    head.terminate()
    with suppress(subprocess.TimeoutExpired):
        head.wait(10)
    for _ in range(20):
        alive = _alive(known | set(cluster.processes()))
        if not alive:
            return
        for process in alive:
            with suppress(psutil.Error):
                process.kill()
        psutil.wait_procs(alive, timeout=2)


def _alive(processes: set[psutil.Process]) -> list[psutil.Process]:
    found = []
    for process in processes:
        with suppress(psutil.Error):
            if process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found
