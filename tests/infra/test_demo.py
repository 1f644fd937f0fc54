"""The demo's folder, which is its own, and its end, which leaves nothing behind. Its scores: `make demo`."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from infra.local.demo import own_folder
from infra.local.deploy import ROOT, StepError
from tests.helpers import checks, write

DEMO = "from infra.local.demo import main; main()"


def test_the_demo_clears_no_folder_but_its_own(tmp_path: Path) -> None:
    output = tmp_path / "demo"
    with own_folder(output):
        for name in ("store", "scores", "pictures"):
            (output / name).mkdir()
    with own_folder(output):
        assert [path.name for path in sorted(output.iterdir())] == [".o2n-demo", "pictures"]
    for other in (tmp_path, output / ".o2n-demo"):
        with pytest.raises(StepError, match="new folder"), own_folder(other):
            pass
    assert (output / "pictures").is_dir()


def test_two_demos_are_not_in_one_folder(tmp_path: Path) -> None:
    with own_folder(tmp_path / "demo"):
        (tmp_path / "demo" / "store").mkdir()
        done = run(DEMO, tmp_path)
        assert (tmp_path / "demo" / "store").is_dir()
    assert done.returncode == 1
    assert done.stderr == f"error: another demo runs in {tmp_path}/demo: wait for its end, or give another --output\n"


@pytest.mark.cluster
def test_a_cluster_that_does_not_come_up_is_told_in_one_line(tmp_path: Path) -> None:
    done = run(f"import infra.local.cluster; infra.local.cluster.START_SECONDS = 0; {DEMO}", tmp_path)
    assert done.returncode == 1
    assert "error: the Ray cluster did not come up" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.cluster
def test_a_demo_that_is_ended_leaves_no_cluster_behind(tmp_path: Path) -> None:
    with (tmp_path / "log").open("w") as log:
        demo = subprocess.Popen(command(DEMO, tmp_path), cwd=ROOT, stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + 300
        while "onboarding" not in (tmp_path / "log").read_text():  # once the cluster is up
            assert demo.poll() is None, (tmp_path / "log").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.2)
        children = psutil.Process(demo.pid).children(recursive=True)
        assert len(children) > 5
        demo.send_signal(signal.SIGTERM)
        assert demo.wait(120) == 1
    finally:
        demo.kill()
    assert not [child for child in children if child.is_running() and child.status() != "zombie"]


def command(code: str, folder: Path) -> list[str]:
    """The demo on two pictures, in a folder of its own."""
    for kind in ("train/good", "test/good"):
        write(folder / "data" / "checks" / kind, [checks(0), checks(1)])
    return [sys.executable, "-c", code, "--data", str(folder / "data"), "--output", str(folder / "demo")]


def run(code: str, folder: Path) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(command(code, folder), cwd=ROOT, capture_output=True, text=True, check=False, timeout=300)
