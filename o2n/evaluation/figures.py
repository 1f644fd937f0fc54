"""The file of figures that `jobs/evaluate_tiny.py` keeps: what was measured so far, of what, and where."""

from pathlib import Path
from typing import Self

from pydantic import BaseModel, ConfigDict, ValidationError

from o2n.device import processor
from o2n.errors import O2NError, cause_of
from o2n.evaluation.judge import Judgement
from o2n.evaluation.methods.one_to_normal import REVISION
from o2n.evaluation.speed import Speed
from o2n.files import replacing
from o2n.foundation import load_foundation
from o2n.profiles import Profile


class Measured(BaseModel):
    """Of what figures are: those of two that differ in any of these do not belong in one table.

    foundation: `Foundation.identity`. machine: its processor, on which adapters' last digits hang. revision: how the
    method is written.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    profile: Profile
    foundation: str
    machine: str
    revision: int = REVISION

    @classmethod
    def here(cls, profile: Profile) -> Self:
        """Whatever is measured with this profile from now on."""
        return cls(profile=profile, foundation=load_foundation(profile).identity, machine=processor())


class Figures(BaseModel):
    """What a run came to, or has come to so far; judgements in the order in which they ended."""

    model_config = ConfigDict(extra="forbid")

    measured: Measured
    seconds: Speed
    judgements: list[Judgement] = []

    def write(self, file: Path) -> None:
        """Whole at every moment: whoever is killed here loses nothing.

        Raises:
            O2NError: there is no room, or the folder cannot be written.
        """
        try:
            with replacing(file) as part:
                part.write_text(self.model_dump_json(indent=1))
        except OSError as error:
            raise O2NError(f"{file} cannot be written ({error.strerror}): make room, or give another --json") from None


def read_figures(file: Path, measured: Measured) -> Figures | None:
    """What a run of the same has left in `file`; None where there is no such file.

    Raises:
        O2NError: it holds something else, which is not to be lost.
    """
    try:
        figures = Figures.model_validate_json(file.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValidationError) as error:
        raise O2NError(f"{file} holds no figures ({cause_of(error)}): give another --json") from None
    for name, now in measured:
        if getattr(figures.measured, name) != now:
            raise O2NError(f"{file} holds figures of another {name}: give another --json, or delete it to begin anew")
    return figures
