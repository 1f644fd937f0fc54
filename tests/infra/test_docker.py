"""The image and the scripts of infra: linted, pinned, and fed with all they need and nothing more."""

import re
import shutil
import subprocess
import sys
import tomllib
from fnmatch import fnmatch
from pathlib import Path

import pytest
import yaml

from infra.local.deploy import ROOT

DOCKER = ROOT / "infra" / "docker"
DOCKERFILE = DOCKER / "Dockerfile"

TRACKED = subprocess.run(["git", "ls-files"], cwd=ROOT, text=True, capture_output=True, check=True).stdout.split("\n")
SCRIPTS = [
    path
    for path in (ROOT / name for name in TRACKED if name)
    if path.is_file() and re.match(rb"#!.*\b(ba|da)?sh\b", path.read_bytes()[:64])
]


def tool(name: str) -> str:
    """A linter that its wheel put beside this Python."""
    found = Path(sys.executable).with_name(name)
    assert found.exists(), f"{name} is missing: install the test extra"
    return str(found)


def lint(*command: str, text: str | None = None) -> None:
    done = subprocess.run(command, input=text, text=True, capture_output=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_dockerfile_is_clean() -> None:
    lint(tool("hadolint"), str(DOCKERFILE))


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_shell_scripts_are_clean(script: Path) -> None:
    lint(tool("shellcheck"), str(script))


def test_shell_inside_manifests_is_clean() -> None:
    documents = [d for f in (ROOT / "infra" / "kuberay").glob("*.yaml") for d in yaml.safe_load_all(f.read_text())]
    found = re.findall(r"'command': \['/bin/sh', '-c'\]", repr(documents))
    pods = [d["spec"]["template"]["spec"] for d in documents if d["kind"] == "StatefulSet"]
    scripts = [c["args"][0] for pod in pods for c in pod["containers"] if c.get("command") == ["/bin/sh", "-c"]]
    assert len(scripts) == len(found) > 0
    for script in scripts:
        lint(tool("shellcheck"), "--shell=sh", "-", text=script)


def test_a_linter_finds_what_is_wrong() -> None:
    with pytest.raises(AssertionError, match="SC2086"):
        lint(tool("shellcheck"), "--shell=sh", "-", text="rm $1\n")
    with pytest.raises(AssertionError, match="DL3006"):
        lint(tool("hadolint"), "-", text="FROM python\n")


def test_the_image_is_pinned_and_not_root() -> None:
    text = DOCKERFILE.read_text()
    (base,) = re.findall(r"^FROM (\S+)$", text, re.MULTILINE)
    assert re.fullmatch(r"python:3\.(11|12|13)\.\d+-slim-[a-z]+", base)
    instructions = re.findall(r"^([A-Z]+) (.*)$", text, re.MULTILINE)
    assert [value for name, value in instructions if name == "USER"] == ["1000:1000"]
    assert max(i for i, (name, _) in enumerate(instructions) if name == "RUN") < instructions.index(
        ("USER", "1000:1000")
    )
    assert "HEALTHCHECK" in dict(instructions)


def test_all_that_the_package_is_built_from_reaches_the_image_and_no_more() -> None:
    lines = (DOCKER / "Dockerfile.dockerignore").read_text().splitlines()
    assert lines[1] == "*"
    let_in = {line[1:] for line in lines if line.startswith("!")}
    assert all((ROOT / name).exists() for name in let_in)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    packages = {pattern.rstrip("*") for pattern in project["tool"]["setuptools"]["packages"]["find"]["include"]}
    needed = packages | {"pyproject.toml", project["project"]["readme"], *project["project"]["license-files"], "jobs"}
    assert let_in == needed
    assert not [name for name in let_in if any(fnmatch(name, kept_out) for kept_out in ("tests*", ".git*", "infra*"))]


def test_the_compose_file_pins_its_images_and_publishes_on_loopback_alone() -> None:
    services = yaml.safe_load((DOCKER / "compose.yaml").read_text())["services"]
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert services["o2n"]["image"] == f"o2n:{version}-cpu"
    assert (DOCKER / services["o2n"]["build"]["context"]).resolve() == ROOT
    assert (ROOT / services["o2n"]["build"]["dockerfile"]).is_file()
    for service in services.values():
        assert re.fullmatch(r"[a-z0-9/-]+:\d[\w.-]*", service["image"])
        assert all(port.startswith("127.0.0.1:") for port in service["ports"])
        for name, value in service["environment"].items():
            if re.search("KEY|SECRET", name):
                assert value.startswith("${")


def test_make_stack_is_the_stack() -> None:
    make = shutil.which("make")
    assert make is not None
    told = [make, "-n", "--no-print-directory", "stack", "ARGS="]  # the tests may themselves run under make
    shown = subprocess.run(told, cwd=ROOT, text=True, capture_output=True, check=True).stdout
    assert shown.rstrip().endswith("-m infra.local.stack")
