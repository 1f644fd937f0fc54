"""The demo's own cluster: leaves nothing behind, touches nothing else, asks for its token."""

import contextlib
import socket
import time
from pathlib import Path

import httpx
import psutil
import pytest

from infra.local.cluster import PORTS, Cluster, free_port, local_cluster

pytestmark = pytest.mark.cluster


def titles(cluster: Cluster) -> set[str]:
    found = set()
    for process in cluster.processes():
        with contextlib.suppress(psutil.Error):
            found.update(process.cmdline()[:1])
    return found


def test_it_stops_with_everything_it_started_and_leaves_others_alone(cluster: Cluster, tmp_path: str) -> None:
    others = {process.pid for process in cluster.processes()}
    with local_cluster(cpus=1, store="file:///tmp") as second:
        assert second.processes()
        assert not {process.pid for process in second.processes()} & others
        assert httpx.get(f"{second.dashboard}/api/jobs/").status_code in (401, 403)
        deadline = time.monotonic() + 60
        while "ray::DashboardAgent" not in titles(second):  # the one whose mark can no longer be read
            assert time.monotonic() < deadline, titles(second)
            time.sleep(0.5)
        folder, started = second.logs, second.processes()
    assert second.processes() == []
    assert not [process for process in started if process.is_running() and process.status() != "zombie"]
    assert not folder.exists()
    headers = {"Authorization": f"Bearer {cluster.environment['RAY_AUTH_TOKEN']}"}
    assert httpx.get(f"{cluster.dashboard}/api/jobs/", headers=headers).status_code == 200


def test_it_stops_when_what_runs_on_it_fails() -> None:
    seen: list[Cluster] = []

    class StepError(Exception):
        pass

    def fail() -> None:
        with local_cluster(cpus=1, store="file:///tmp") as running:
            seen.append(running)
            raise StepError

    with pytest.raises(StepError):
        fail()
    assert seen[0].processes() == []


def test_torchvision_imports_in_workers(cluster: Cluster) -> None:
    code = (
        "import os, ray; os.environ.pop('RAY_ADDRESS'); ray.init(address='auto')\n"
        "@ray.remote\n"
        "def imported():\n"
        "    import o2n, torchvision, open_clip\n"
        "    return torchvision.__version__\n"
        "print(ray.get(imported.remote()))"
    )
    done = cluster.run("ray", "job", "submit", "--", "python", "-c", code)
    assert done.returncode == 0, done.stdout + done.stderr


def test_no_outgoing_connection_can_take_a_free_port() -> None:
    given = Path("/proc/sys/net/ipv4/ip_local_port_range")
    if not given.exists() or given.read_text().split()[0] != "32768":
        pytest.skip("this system gives outgoing connections other ports than Linux does by default")
    assert PORTS[1] <= 32768
    assert all(1024 < free_port() < 32768 for _ in range(200))


def test_a_port_that_somebody_listens_on_is_not_free(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken:
        port = free_port()
        taken.bind(("127.0.0.1", port))
        taken.listen()
        monkeypatch.setattr("infra.local.cluster.PORTS", (port, port + 2))
        assert free_port() == port + 1
