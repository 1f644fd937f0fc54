"""The wheel that users install has every file that the code reads."""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

from infra.local.deploy import ROOT


def test_a_wheel_has_every_file_of_the_packages(tmp_path: Path) -> None:
    sources = tmp_path / "sources"
    for package in ("o2n", "serve"):  # elsewhere: what an earlier build has left would go into the wheel too
        shutil.copytree(ROOT / package, sources / package, ignore=shutil.ignore_patterns("__pycache__"))
    for file in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / file, sources)
    files = {path.relative_to(sources).as_posix() for path in sources.glob("*/**/*") if path.is_file()}
    wheels = ["--no-deps", "--no-build-isolation", "--wheel-dir", str(tmp_path), str(sources)]
    subprocess.run([sys.executable, "-m", "pip", "wheel", "--quiet", *wheels], check=True)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as packed:
        inside = set(packed.namelist())
    assert files <= inside
