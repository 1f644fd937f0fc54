"""torchvision can be imported after o2n, in fresh processes, whichever build of torch is there."""

import subprocess
import sys
from pathlib import Path

from numpy.linalg import _umath_linalg


def run(code: str, **options: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, **options)


def test_torchvision_and_what_is_built_on_it_import_after_o2n() -> None:
    done = run("import o2n, torchvision, timm, open_clip, diffusers, peft; print(torchvision.__version__)")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


def test_importing_o2n_imports_neither_torch_nor_torchvision() -> None:
    done = run("import sys, o2n; print(sorted({'torch', 'torchvision'} & set(sys.modules)))")
    assert done.stdout.strip() == "[]"


def test_nothing_is_declared_where_the_operators_load(tmp_path: Path) -> None:
    loadable = Path(_umath_linalg.__file__)
    (tmp_path / "torchvision").mkdir()
    (tmp_path / "torchvision" / "__init__.py").touch()
    (tmp_path / "torchvision" / "_C.so").write_bytes(loadable.read_bytes())
    code = "import o2n, torchvision; from o2n import torchvision_guard as g; print(torchvision.__file__, g._declared)"
    done = run(code, cwd=tmp_path)
    assert done.stdout.strip() == f"{tmp_path / 'torchvision' / '__init__.py'} []", done.stderr


def test_installing_twice_changes_nothing() -> None:
    count = "len(sys.meta_path)"
    code = f"import o2n, sys; before = {count}; o2n.torchvision_guard.install(); print({count} - before)"
    done = run(code)
    assert done.stdout.strip() == "0"
    assert done.returncode == 0, done.stderr
