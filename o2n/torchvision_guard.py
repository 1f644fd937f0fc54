"""Lets torchvision be imported beside a CPU build of torch.

torchvision's wheel on the package index is built for CUDA. Beside a CPU torch its compiled operators cannot be
loaded, and `import torchvision` fails with `operator torchvision::nms does not exist`, taking timm, open_clip,
transformers, peft and diffusers with it. None of them calls these operators here; declaring their names is enough.

Nothing is imported until somebody imports torchvision, and nothing is declared where its operators load.
"""

import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType

# Keeps the declared operators alive: a torch.library.Library takes its operators with it when collected.
_declared: list[object] = []


class _Finder(MetaPathFinder):
    """Looks on, once, when torchvision is about to be imported; finds nothing itself."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname == "torchvision":
            sys.meta_path.remove(self)
            spec = PathFinder.find_spec(fullname, path)
            if spec is not None and spec.origin is not None:
                _declare_missing_operators(Path(spec.origin).parent)
        return None


def _declare_missing_operators(torchvision_folder: Path) -> None:
    import torch

    for extension in torchvision_folder.glob("_C*.so"):
        try:
            torch.ops.load_library(str(extension))
            return
        except OSError:
            pass  # built for another torch: the operators have to be declared
    library = torch.library.Library("torchvision", "FRAGMENT")
    library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _declared.append(library)


def install() -> None:
    """Make the next `import torchvision` in this process work. Does nothing when it is imported already."""
    if "torchvision" not in sys.modules and not any(isinstance(f, _Finder) for f in sys.meta_path):
        sys.meta_path.insert(0, _Finder())
