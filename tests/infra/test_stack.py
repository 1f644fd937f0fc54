"""The local stack as a user runs it: up with one command, onboarded from S3, a picture scored, down again."""

import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import boto3
import httpx
import psutil
import pytest
import yaml

from infra.kuberay.embed import KUBERAY
from infra.local.cluster import free_port
from infra.local.deploy import ROOT
from infra.local.s3 import BUCKET
from infra.local.stack import environment_file
from o2n.images import encode_png
from tests.helpers import checks

START_SECONDS = 600.0


def sourced(file: Path) -> dict[str, str]:
    """What a shell knows after `source file`."""
    lines = (shlex.split(line)[1].partition("=") for line in file.read_text().splitlines())
    return {name: value for name, _, value in lines}


def ask(url: str, **request: Any) -> httpx.Response:
    """POST, once more where Serve was just replacing its proxy or a replica, as it does on a machine without time."""
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            answer = httpx.post(url, timeout=120, **request)
            if answer.status_code != 503 or time.monotonic() > deadline:
                return answer
        except httpx.TransportError:
            if time.monotonic() > deadline:
                raise
        time.sleep(2)


@pytest.mark.cluster
@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_one_command_serves_from_s3_until_it_is_interrupted(quick_profile: str, tmp_path: Path) -> None:
    port = free_port()
    command = [sys.executable, "-m", "infra.local.stack", "--port", str(port), "--profile", quick_profile]
    log = (tmp_path / "log").open("w+")
    stack = subprocess.Popen([*command, "--output", str(tmp_path)], cwd=ROOT, stdout=log, stderr=subprocess.STDOUT)
    file = tmp_path / "environment"
    try:
        deadline = time.monotonic() + START_SECONDS
        while "Ctrl-C stops all of it" not in (tmp_path / "log").read_text():
            assert stack.poll() is None, (tmp_path / "log").read_text()
            assert time.monotonic() < deadline, (tmp_path / "log").read_text()
            time.sleep(0.5)
        assert file.stat().st_mode & 0o077 == 0
        known = sourced(file)
        url, token = known["O2N_URL"], known["O2N_TOKEN"]
        assert url == f"http://127.0.0.1:{port}"
        secrets = [value for name, value in known.items() if any(word in name for word in ("SECRET", "TOKEN"))]
        assert not [secret for secret in secrets if secret in (tmp_path / "log").read_text()]

        s3 = boto3.client(
            "s3",
            endpoint_url=known["O2N_S3_ENDPOINT"],
            aws_access_key_id=known["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=known["AWS_SECRET_ACCESS_KEY"],
            region_name=known["AWS_DEFAULT_REGION"],
        )
        for seed in range(2):
            s3.put_object(Bucket=BUCKET, Key=f"pictures/checks/{seed}.png", Body=encode_png(checks(seed)))

        # What KubeRay's submitter does with onboard.yaml.
        job = yaml.safe_load((KUBERAY / "onboard.yaml").read_text())["spec"]
        submitted = subprocess.run(
            [
                *(str(Path(sys.executable).with_name("ray")), "job", "submit"),
                *("--entrypoint-num-cpus", str(job["entrypointNumCpus"]), "--"),
                *shlex.split(job["entrypoint"].replace("/opt/o2n", str(ROOT)).replace("python", sys.executable)),
                *("--profile", quick_profile),
            ],
            env=os.environ | known,
            capture_output=True,
            text=True,
            check=False,
        )
        assert submitted.returncode == 0, submitted.stdout + submitted.stderr

        upload = {"pictures": ("0.png", encode_png(checks(7)))}
        refused = ask(f"{url}/v1/categories/checks/score", files=upload)
        assert refused.status_code == 401
        answer = ask(f"{url}/v1/categories/checks/score", files=upload, headers={"Authorization": f"Bearer {token}"})
        assert answer.status_code == 200, answer.text
        assert answer.json()["category"] == "checks"
        assert answer.json()["pictures"][0]["score"] > 0

        children = psutil.Process(stack.pid).children(recursive=True)
        assert children
        stack.send_signal(signal.SIGINT)
        assert stack.wait(180) == 0, (tmp_path / "log").read_text()
        assert not [child for child in children if child.is_running() and child.status() != "zombie"]
        assert not file.exists()
    finally:
        if stack.poll() is None:
            stack.terminate()
            stack.wait(60)
        log.close()


def test_the_environments_file_is_gone_at_the_end_whoever_removed_it(tmp_path: Path) -> None:
    for removed in (False, True):
        with environment_file(tmp_path, {"A": "b c"}) as file:
            assert sourced(file) == {"A": "b c"}
            assert file.stat().st_mode & 0o077 == 0
            if removed:
                file.unlink()
        assert not file.exists()


def test_an_s3_server_of_ones_own_must_be_there_and_have_keys(tmp_path: Path) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    keys = {"AWS_ACCESS_KEY_ID": "-", "AWS_SECRET_ACCESS_KEY": "-"}
    for given, said in (
        ({}, "error: AWS_ACCESS_KEY_ID is not set: set it to a key of the S3 server"),
        (keys, "error: bucket o2n cannot be made"),
    ):
        command = [sys.executable, "-m", "infra.local.stack", "--s3", url, "--output", str(tmp_path)]
        done = subprocess.run(
            command, cwd=ROOT, env=environment | given, capture_output=True, text=True, check=False, timeout=120
        )
        assert done.returncode == 1
        assert said in done.stderr
        assert "Traceback" not in done.stderr
