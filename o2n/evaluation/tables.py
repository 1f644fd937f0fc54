"""Outcomes -> the paper's tables. Every figure is a mean over draws, each draw's being the mean over its categories."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations

import numpy as np

from o2n.data.datasets.base import DataSet
from o2n.evaluation.metrics import auroc
from o2n.evaluation.protocol import ALL_METHODS, OURS, UnitOutcome, fused_part, other_fusion, prompts_part
from o2n.evaluation.published import SAME_AS, published
from o2n.profiles import BRANCHES, Profile

METRICS = ("AUROC", "AUPRC", "pixel AUROC", "AUPRO")
DOMAINS = {
    "industrial": ("1", "Industrial data sets"),
    "medical": ("2", "Medical data sets"),
    "semantic": ("3", "Semantic data sets, each class against the others"),
    "procedural": ("P", "Procedural families that no model was trained on"),
}

FUSED = {"sum": "as they are", "calibrated": "in deviations of good pictures"}


@dataclass(frozen=True)
class Figure:
    """Mean ± standard deviation over `draws`, in percent, and another figure that it is held against. One draw has no
    deviation."""

    mean: float
    deviation: float | None
    draws: int
    against: float | None = None
    against_deviation: float | None = None

    @property
    def difference(self) -> float | None:
        return None if self.against is None else self.mean - self.against


@dataclass(frozen=True)
class Row:
    labels: tuple[str, ...]
    cells: tuple[Figure | str | None, ...]


@dataclass(frozen=True)
class Table:
    """name: of its file. heads: of the labels' columns, then of the cells'. against: what figures are held against.
    best: whether the highest figure of a row is marked."""

    name: str
    title: str
    note: str
    heads: tuple[str, ...]
    rows: tuple[Row, ...]
    against: str = "paper"
    best: bool = True


Value = Callable[[UnitOutcome], float | None]


@dataclass(frozen=True)
class Outcomes:
    """All that is known. sizes: of each data set's name its number of categories: a draw counts once all are there."""

    known: Sequence[UnitOutcome]
    sizes: Mapping[str, int]

    def title(self, method: str) -> str:
        return next((one.title for one in self.known if one.method == method), method)

    def figure(self, dataset: str, shots: int, method: str, value: Value, pool: bool = False) -> Figure | None:
        """Mean and deviation of `value` in percent; None without a whole draw, or where some category has no value.

        Of draws that some method has not been through yet none counts, as long as there is one that all have: figures
        that stand side by side are of the same references.
        """
        draws: dict[int, list[float]] = {}
        for one in self.known:
            if (one.dataset, one.shots, one.method, bool(one.pool)) == (dataset, shots, method, pool):
                found = value(one)
                draws.setdefault(one.draw, []).extend([] if found is None else [found])
        shared = self._shared(dataset, shots)
        draws = {draw: values for draw, values in draws.items() if draw in shared or not shared}
        means = [np.mean(values) for values in draws.values() if len(values) == self.sizes[dataset]]
        deviation = 100 * float(np.std(means)) if len(means) > 1 else None
        return Figure(100 * float(np.mean(means)), deviation, len(means)) if means else None

    def _shared(self, dataset: str, shots: int) -> set[int]:
        """The draws that every method, alone and with the pool, has been through whole: those that have one at all."""
        whole = [draws for (name, count, *_), draws in self._whole.items() if (name, count) == (dataset, shots)]
        return set[int]().union(*whole).intersection(*whole)

    @cached_property
    def _whole(self) -> dict[tuple[str, int, str, bool], set[int]]:
        """Of each data set, number of shots and method, alone or with the pool, the draws with all categories."""
        seen = Counter((one.dataset, one.shots, one.method, bool(one.pool), one.draw) for one in self.known)
        found: dict[tuple[str, int, str, bool], set[int]] = {}
        for (dataset, shots, method, pool, draw), count in seen.items():
            if count == self.sizes[dataset]:
                found.setdefault((dataset, shots, method, pool), set()).add(draw)
        return found


def all_tables(outcomes: Outcomes, datasets: Sequence[DataSet], profile: Profile) -> list[Table]:
    """Tables 1 to 3 and their like for other data sets, 4, 5 and the experiment of figure 4; those without figures are
    left out."""
    shots = sorted({one.shots for one in outcomes.known})
    if not shots:
        return []
    made = [
        comparison(outcomes, [dataset for dataset in datasets if dataset.domain == domain], shots, metric, domain)
        for domain in DOMAINS
        for metric in METRICS
    ]
    made += [
        *(branches(outcomes, datasets, count, profile) for count in shots),
        prompts(outcomes, datasets, shots[-1], profile),
        pooled(outcomes, datasets, shots),
    ]
    return [table for table in made if table.rows]


def comparison(
    outcomes: Outcomes, datasets: Sequence[DataSet], shots: Sequence[int], metric: str, domain: str
) -> Table:
    """Tables 1, 2 and 3: data sets and shots by methods, one metric."""
    number, title = DOMAINS[domain]
    methods = _methods(outcomes)
    led = OURS in methods and len(methods) > 1
    rows = []
    for dataset in datasets:
        for count in shots:
            cells = [
                _against(
                    outcomes.figure(dataset.name, count, method, lambda one: one.figures.get(metric)),
                    (number, dataset.name, count, method, metric),
                )
                for method in methods
            ]
            if any(cells):
                lead = [_lead(cells)] if led else []
                rows.append(Row((dataset.title, str(count)), (cells[0], *lead, *cells[1:])))
    first, *others = (outcomes.title(method) for method in methods)
    heads = ("data set", "shots", first, *(["over the best other"] if led else []), *others)
    loose = [dataset.title for dataset in datasets if dataset.name in SAME_AS]
    note = f"“{loose[0]}” is held against the paper's MNIST, whose shots are training pictures." if loose else ""
    if metric == "AUPRC":
        note = f"Guessing gets the share of queries that are anomalous, which --queries changes. {note}".strip()
    level = "of pictures" if metric in ("AUROC", "AUPRC") else "of pixels"
    return Table(
        f"table-{number}-{metric.replace(' ', '-')}".lower(),
        f"Table {number}. {title}: {metric.removeprefix('pixel ')} {level}",
        note,
        heads,
        tuple(rows),
    )


def branches(outcomes: Outcomes, datasets: Sequence[DataSet], shots: int, profile: Profile) -> Table:
    """Table 4: every set of branches, summed with the profile's weights, and all of them fused the other way, AUROC."""
    other = other_fusion(profile)
    weights: dict[str, float] = dict(zip(BRANCHES, (1.0, profile.alpha, profile.beta), strict=True))
    sets = [chosen for count in (1, 2, 3) for chosen in combinations(BRANCHES, count)]

    def sum_of(chosen: tuple[str, ...]) -> Value:
        def value(one: UnitOutcome) -> float | None:
            if not set(chosen) <= set(one.parts):
                return None
            total = sum(weights[name] * np.array(one.parts[name]) for name in chosen)
            return auroc(np.asarray(total), np.array(one.labels))

        return value

    def otherwise(one: UnitOutcome) -> float | None:
        scores = one.parts.get(fused_part(other.fusion))
        return auroc(np.array(scores), np.array(one.labels)) if scores else None

    last_row = ""
    if any(fused_part(other.fusion) in one.parts for one in outcomes.known if one.shots == shots):
        last_row = f"; in the last row with α = {other.alpha:g} and β = {other.beta:g}, {FUSED[other.fusion]}"
    return _of_ours(
        outcomes,
        datasets,
        shots,
        "4",
        f"Table 4. Branches of One-to-Normal, {shots} shots: AUROC of pictures",
        f"Sums as in eq. (7) with the profile's α = {profile.alpha:g} and β = {profile.beta:g}, of branches "
        f"{FUSED[profile.fusion]}{last_row}. Of the paper's six rows two stand here: the text that they were read from "
        "names no branches for the others.",
        "branches",
        [*((" + ".join(chosen), sum_of(chosen)) for chosen in sets), (fused_part(other.fusion), otherwise)],
    )


def prompts(outcomes: Outcomes, datasets: Sequence[DataSet], shots: int, profile: Profile) -> Table:
    """Table 5: the whole score had queries been redrawn with other prompts, AUROC; empty where S_P does not count."""
    counts = sorted({int(part.split()[1]) for one in outcomes.known for part in one.parts if part.endswith(" prompts")})

    def with_part(part: str) -> Value:
        def value(one: UnitOutcome) -> float | None:
            if part not in one.parts:
                return None
            scores = np.array(one.scores) - np.array(one.parts["S_P"]) + np.array(one.parts[part])
            return auroc(scores, np.array(one.labels))

        return value

    ways = [("no text", with_part(prompts_part(0))), ("refined text", lambda one: one.figures["AUROC"])]
    ways += [(f"{count} prompt{'s' * (count > 1)}", with_part(prompts_part(count))) for count in counts]
    if "S_P" not in profile.branches or not any(prompts_part(0) in one.parts for one in outcomes.known):
        ways = []
    return _of_ours(
        outcomes,
        datasets,
        shots,
        "5",
        f"Table 5. Prompts that queries are redrawn with, {shots} shots: AUROC of pictures",
        "“refined text” is the method with the profile's own prompts, “no text” the empty one. S_P keeps the scale "
        "that it has with the profile's own.",
        "prompts",
        ways,
    )


def pooled(outcomes: Outcomes, datasets: Sequence[DataSet], shots: Sequence[int]) -> Table:
    """The experiment of figure 4: other methods with One-to-Normal's pool among their references, AUROC."""
    methods = [name for name in _methods(outcomes) if any(one.pool and one.method == name for one in outcomes.known)]
    size = max((one.pool for one in outcomes.known), default=0)
    rows = []
    for dataset in datasets:
        for count in shots:
            cells = []
            for method in methods:
                found = outcomes.figure(dataset.name, count, method, lambda one: one.figures["AUROC"], pool=True)
                alone = outcomes.figure(dataset.name, count, method, lambda one: one.figures["AUROC"])
                cells.append(_beside(found, alone.mean, alone.deviation) if found and alone else None)
            if any(cells):
                given = [
                    one for one in outcomes.known if one.pool and (one.dataset, one.shots) == (dataset.name, count)
                ]
                added = np.mean([one.added for one in given])
                rows.append(Row((dataset.title, str(count), f"{added:.1f}"), tuple(cells)))
    return Table(
        "figure-4",
        f"Figure 4. Other methods with up to {size} pictures of One-to-Normal's pool: AUROC of pictures",
        "The pool is drawn from the same references, and what of it passes for normal beside them is added to them, as "
        f"`jobs/export_pool.py` does. “added”: how many pictures that is on the mean, fewer than {size} where too few "
        f"pass. {_published_gains()}",
        ("data set", "shots", "added", *(outcomes.title(method) for method in methods)),
        tuple(rows),
        against="without",
        best=False,
    )


def _published_gains() -> str:
    """What the paper's text says of its figure 4, which has no numbers of its own."""

    def gained(dataset: str, shots: int | None, method: str) -> str:
        found = published("figure-4", dataset, shots, method, "AUROC gained")
        assert found
        return f"+{found.mean:g}"

    regad = ", ".join(gained("", shots, "regad") for shots in (2, 4, 8))
    return (
        f"The paper: RegAD {regad} with 2, 4, 8 shots on a data set that its text does not name; on OCT2017 PatchCore "
        f"{gained('oct2017', None, 'patchcore')}, RegAD {gained('oct2017', None, 'regad')}."
    )


def _of_ours(
    outcomes: Outcomes,
    datasets: Sequence[DataSet],
    shots: int,
    number: str,
    title: str,
    note: str,
    head: str,
    ways: Sequence[tuple[str, Value]],
) -> Table:
    """Ways to run One-to-Normal by data sets."""
    asked = [dataset for dataset in datasets if outcomes.figure(dataset.name, shots, OURS, lambda one: 0.0)]
    rows = []
    for label, value in ways:
        cells = [
            _against(outcomes.figure(dataset.name, shots, OURS, value), (number, dataset.name, shots, label, "AUROC"))
            for dataset in asked
        ]
        if any(cells):
            rows.append(Row((label,), tuple(cells)))
    return Table(
        f"table-{number}-{shots}-shots", title, note, (head, *(one.title for one in asked)), tuple(rows), best=False
    )


def _methods(outcomes: Outcomes) -> list[str]:
    """Those that have outcomes, One-to-Normal first."""
    found = {one.method for one in outcomes.known}
    return [name for name in ALL_METHODS if name in found]


def _against(figure: Figure | None, key: tuple[str, str, int | None, str, str]) -> Figure | None:
    known = published(*key)
    return _beside(figure, known.mean, known.deviation) if figure and known else figure


def _beside(figure: Figure, mean: float, deviation: float | None) -> Figure:
    return Figure(figure.mean, figure.deviation, figure.draws, mean, deviation)


def _lead(cells: Sequence[Figure | None]) -> str | None:
    """By how much the first is above the best of the others."""
    others = [cell.mean for cell in cells[1:] if cell]
    return f"{cells[0].mean - max(others):+.1f}" if cells[0] and others else None
