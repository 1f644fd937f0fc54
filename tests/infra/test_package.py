"""The wheel that users install has every file that the code reads."""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

from infra.local.demo import ROOT

SOURCES = ("o2n", "serve", "pyproject.toml", "README.md", "LICENSE")


def test_a_wheel_has_every_file_of_the_packages(tmp_path: Path) -> None:
    listed = subprocess.run(["git", "ls-files", *SOURCES], cwd=ROOT, check=True, capture_output=True, text=True)
    files = listed.stdout.split()
    for file in files:  # elsewhere: what an earlier build has left would go into the wheel too
        target = tmp_path / "sources" / file
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / file, target)
    wheels = ["--wheel-dir", str(tmp_path), str(tmp_path / "sources")]
    subprocess.run([sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", *wheels], check=True)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as packed:
        inside = set(packed.namelist())
    assert {file for file in files if "/" in file} <= inside
