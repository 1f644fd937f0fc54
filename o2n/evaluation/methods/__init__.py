"""The competing methods, behind one small interface: `fit(references) -> score(pictures)`."""

from collections.abc import Callable

from o2n.evaluation.methods.coop import CoOp
from o2n.evaluation.methods.interface import Fitted, Method, Scored
from o2n.evaluation.methods.padim import PaDiM
from o2n.evaluation.methods.patchcore import PatchCore
from o2n.evaluation.methods.winclip import WinCLIP
from o2n.profiles import Profile

Builder = Callable[[Profile], Method]

# How the command line calls a method -> what builds it. A method whose weights a user must bring raises
# `FoundationError` that says which and from where.
METHODS: dict[str, Builder] = {
    "coop": CoOp,
    "padim": PaDiM,
    "patchcore": PatchCore,
    "winclip": WinCLIP,
}

__all__ = ["METHODS", "Builder", "Fitted", "Method", "Scored"]
