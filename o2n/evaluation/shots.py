"""Which pictures are the references and which are asked: drawn once, written down, and the same for every method."""

import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError, field_validator

from o2n.data.datasets.base import LabelledCategory, Sample
from o2n.errors import DataSetError, cause_of
from o2n.files import replacing


class Draw(BaseModel):
    """The manifest of one draw. `references`: keys of good pictures in the order drawn: the first k are the k shots,
    so that of one draw fewer shots are part of more. `seed`: of NumPy's generator that drew them."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    dataset: str
    category: str
    number: int
    seed: tuple[int, int]
    references: tuple[str, ...]

    @field_validator("references")
    @classmethod
    def _each_once(cls, keys: tuple[str, ...]) -> tuple[str, ...]:
        if twice := [key for key, times in Counter(keys).items() if times > 1]:
            raise ValueError(f"{twice[0]} stands there twice")
        return keys

    def of(self, category: LabelledCategory, shots: int) -> tuple[Sample, ...]:
        """The first `shots` of its references.

        Raises:
            DataSetError: a reference that is not among the good pictures, or is a query.
        """
        normals = {sample.key: sample for sample in category.normals}
        queries = {sample.key for sample in category.queries}
        for key in self.references[:shots]:
            if key not in normals or key in queries:
                why = "is a query too" if key in queries else "is not among the good pictures of its category"
                raise DataSetError(f"draw {self.number} of {self.dataset}/{self.category}: {key} {why}: draw it anew")
        return tuple(normals[key] for key in self.references[:shots])


def draw_shots(dataset: str, category: LabelledCategory, number: int, most: int) -> Draw:
    """Draw number `number` of a category's references, without replacement, `most` at most.

    Raises:
        DataSetError: the category has fewer good pictures than that.
    """
    if len(category.normals) < most:
        raise DataSetError(
            f"{dataset}/{category.name}: {len(category.normals)} good pictures to draw from, {most} are asked for: "
            "ask for fewer shots"
        )
    seed = (number, zlib.crc32(f"{dataset}/{category.name}".encode()))
    rows = np.random.default_rng(seed).permutation(len(category.normals))[:most]
    keys = tuple(category.normals[row].key for row in rows)
    return Draw(dataset=dataset, category=category.name, number=number, seed=seed, references=keys)


def kept_draw(folder: Path, dataset: str, category: LabelledCategory, number: int, most: int) -> Draw:
    """The draw whose manifest is in `folder`, if it has enough references; or else a new one, written there.

    Raises:
        DataSetError: a file that is no manifest, or one of somebody's own with too few references; as `draw_shots`.
    """
    file = folder / dataset / f"{category.name}-{number}.json"
    kept: tuple[str, ...] = ()
    if file.is_file():
        try:
            draw = Draw.model_validate_json(file.read_bytes())
        except ValidationError as error:
            raise DataSetError(f"{file}: is no draw ({cause_of(error)}): delete or mend it") from None
        kept = draw.references
        if len(kept) >= most:
            return draw
    draw = draw_shots(dataset, category, number, most)
    if draw.references[: len(kept)] != kept:  # as of what was drawn here it always is
        raise DataSetError(f"{file}: has {len(kept)} references, {most} are asked for: add some or ask for fewer")
    with replacing(file) as part:
        part.write_text(draw.model_dump_json(indent=1) + "\n", encoding="utf-8")
    return draw


_Digests = TypeAdapter(dict[str, list[str]])  # of each key its kind and its files' digests


def hold_to(file: Path, samples: Iterable[Sample], digest: Callable[[Path], str]) -> None:
    """See that pictures, masks and kinds are those that `file` was written of; what it has not yet is added.

    Outcomes are kept under the names of pictures: others of the same names would get the figures of the first, and so
    would the same that a label file calls otherwise by now.

    Args: digest: of a file (`files.file_digest`).

    Raises:
        DataSetError: a picture, its mask or its kind is another, or `file` cannot be read.
    """
    now = {sample.key: [sample.kind, *map(digest, sample.files)] for sample in samples if sample.files}
    try:
        known = _Digests.validate_json(file.read_bytes()) if file.is_file() else {}
    except ValidationError as error:
        raise DataSetError(f"{file}: has no pictures' digests ({cause_of(error)}): delete it") from None
    if changed := [key for key, found in now.items() if known.get(key, found) != found]:
        more = f" and {len(changed) - 1} more of this category" if len(changed) > 1 else ""
        raise DataSetError(
            f"{changed[0]}{more}: picture, mask or label is another than when {file} was written: give another --cache"
        )
    if now.keys() - known:
        with replacing(file) as part:
            part.write_bytes(_Digests.dump_json(known | now, indent=1))


def capped(queries: Sequence[Sample], most: int | None, seed: str) -> tuple[Sample, ...]:
    """At most `most` of the queries, drawn by `seed`, good and bad in their own proportion, but of each a quarter at
    least, where there are so many: below that the area under a curve says little."""
    if most is None or len(queries) <= most:
        return tuple(queries)
    rows = np.random.default_rng(zlib.crc32(seed.encode())).permutation(len(queries))
    bad = [row for row in rows if queries[row].anomalous]
    good = [row for row in rows if not queries[row].anomalous]
    wanted = round(most * len(bad) / len(queries))
    wanted = min(max(wanted, most // 4, most - len(good)), most - min(most // 4, len(good)), len(bad))
    return tuple(queries[row] for row in sorted([*bad[:wanted], *good[: most - wanted]]))
