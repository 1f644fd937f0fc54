"""Files of trained linear maps (F' of eq. 6): the maps of every level, and a card that tells what they have seen."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import safetensors
import safetensors.torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from o2n.category import Digest
from o2n.errors import FoundationError, cause_of
from o2n.models import LinearMaps

_CARD = "o2n_text_map"
MAX_NAME = 128


class MapCard(BaseModel):
    """What a map is for and where it comes from."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    trained_on: str = Field(min_length=1, max_length=MAX_NAME, description="name of the auxiliary set")
    pictures: tuple[Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")], ...] = Field(
        description="the first half of `images.digest` of each of its pictures"
    )
    encoder: str = Field(description="digest of the weights of the CLIP it is for")
    levels: tuple[int, ...]
    resolution: int
    steps: int
    seed: int
    loss: float = Field(description="focal + dice, mean of the last tenth of the steps")


def write_map(maps: LinearMaps, card: MapCard) -> bytes:
    """A safetensors file."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in maps.state_dict().items()}
    return safetensors.torch.save(tensors, metadata={_CARD: card.model_dump_json()})


def read_map(file: Path) -> tuple[LinearMaps, MapCard]:
    """The maps in `file`, and their card.

    Raises:
        FoundationError: it cannot be read, or is no such file.
    """
    try:
        data = file.read_bytes()
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
        card = MapCard.model_validate_json(header["__metadata__"][_CARD])
        tensors = safetensors.torch.load(data)
        levels, width, embed_dim = tensors["weight"].shape
        maps = LinearMaps(levels, width, embed_dim)
        maps.load_state_dict(tensors)
    except OSError as error:
        raise FoundationError(f"text map {file} cannot be read ({error.strerror}): check the path") from None
    except (ValidationError, ValueError, KeyError, TypeError, RuntimeError, safetensors.SafetensorError) as error:
        raise FoundationError(
            f"text map {file} is none ({cause_of(error)}): make one with jobs/train_text_map.py"
        ) from error
    return maps, card


def refuse_trained_on(card: MapCard | None, name: str, pictures: Iterable[Digest]) -> None:
    """Refuse to evaluate on what a map has seen in its training: the figures would be flattered.

    Args: name: of the evaluated set; pictures: `images.digest` of its pictures, each as it was read from its file.

    Raises:
        FoundationError: the map was trained on a set of that name, or on one of these pictures.
    """
    if card is None:
        return
    shared = len({picture[:16] for picture in pictures} & set(card.pictures))
    if shared or card.trained_on.casefold() == name.casefold():
        seen = f", {shared} of these pictures among it" if shared else ""
        raise FoundationError(
            f"the text map was trained on {card.trained_on}{seen}: evaluate on {name} with a map that was trained on "
            "another set, or with none"
        )
