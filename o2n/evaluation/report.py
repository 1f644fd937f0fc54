"""All that is known of an evaluation -> the report that is written of it."""

import platform
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from importlib import metadata

from o2n.data.datasets.base import DataSet, LabelledCategory
from o2n.evaluation.plan import PlannedUnit, Protocol
from o2n.evaluation.protocol import UnitOutcome
from o2n.evaluation.results import Report, Sheet
from o2n.evaluation.sheets import counterparts_sheet, maps_sheet
from o2n.evaluation.tables import Outcomes, all_tables
from o2n.evaluation.times import Times, times_table
from o2n.profiles import Profile

LIBRARIES = ("o2n", "torch", "diffusers", "open_clip_torch", "peft", "scikit-learn", "numpy", "ray")

Loaded = Sequence[tuple[DataSet, Sequence[LabelledCategory]]]

NOTE = (
    "Mean ± standard deviation over draws of the references, in percent; a draw's figure is the mean over the "
    "categories of its data set. Below ours stand the paper's figures, if it has them, and the difference. All methods "
    "see the same references and queries, and nothing is fitted on queries."
)


def report(
    known: Sequence[UnitOutcome],
    times: Sequence[Times],
    loaded: Loaded,
    runs: Sequence[PlannedUnit],
    profile: Profile,
    facts: Iterable[tuple[str, str]],
) -> Report:
    """Every table and picture that `known` and `times` are enough for. Args: facts: as in `Report`."""
    sizes = {dataset.name: len(categories) for dataset, categories in loaded}
    made = all_tables(Outcomes(known, sizes), [dataset for dataset, _ in loaded], profile)
    timed = [times_table(times)] if times else []
    shown = [sheet for dataset, categories in loaded for sheet in _sheets(dataset, categories, known, runs)]
    return Report(f"Evaluation of profile {profile.name}", (NOTE,), (*made, *timed), tuple(shown), tuple(facts))


def about(
    loaded: Loaded,
    settings: Protocol,
    profile: Profile,
    weights: Mapping[str | None, Mapping[str, str]],
    revisions: Mapping[str, str],
    known: Sequence[UnitOutcome],
    resources: Mapping[str, float],
) -> list[tuple[str, str]]:
    """Label and value of all that decides the figures, and where they were made.

    Args: weights: which each model's are, with the profile's own text map (None) and with others, by their files.
        revisions: `protocol.revision` of each method. resources: of the Ray cluster.
    """
    machines = Counter(one.processor or "a machine that was not kept" for one in known)
    computed = [f"{machine}: {count:,} unit{'s' * (count > 1)}" for machine, count in machines.most_common()]
    asked = "all queries"
    if settings.queries:
        share = "in their own proportion, but a quarter of each at least, which is not the paper's AUPRC"
        asked = f"at most {settings.queries} queries of a category, good and bad {share}"
    versions = [f"Python {platform.python_version()}", *(f"{name} {_version(name)}" for name in LIBRARIES)]
    return [
        (
            "protocol",
            f"shots {', '.join(map(str, settings.shots))}; {settings.draws} draw{'s' * (settings.draws > 1)}; "
            f"{asked}; maps and masks at {settings.pixels} × {settings.pixels}; AUPRO up to 30% false positives",
        ),
        *(
            (
                dataset.title,
                f"{len(categories)} categor{'y' if len(categories) == 1 else 'ies'}, "
                f"{sum(len(one.normals) for one in categories)} good pictures to draw from, "
                f"{sum(len(one.queries) for one in categories)} queries",
            )
            for dataset, categories in loaded
        ),
        ("profile", profile.model_dump_json()),
        ("S_text reads with", profile.reads_by),
        *(
            (f"weights of the {model}" + (f" with {file}" if file else ""), which)
            for file, models in weights.items()
            for model, which in models.items()
        ),
        *((f"{method}'s own weights", own) for method, text in revisions.items() if (own := text.partition(" ")[2])),
        ("computed on", "; ".join(computed) or "nothing yet"),
        (
            "written on",
            f"{platform.system()} {platform.machine()}; Ray had {resources.get('CPU', 0):g} CPUs, "
            f"{resources.get('GPU', 0):g} GPUs",
        ),
        ("versions", ", ".join(versions)),
        ("date", datetime.now(UTC).strftime("%Y-%m-%d")),
    ]


def _sheets(
    dataset: DataSet, categories: Sequence[LabelledCategory], known: Sequence[UnitOutcome], runs: Sequence[PlannedUnit]
) -> list[Sheet]:
    own = [one for one in known if one.dataset == dataset.name and one.shown]
    first = {one.unit.category: one.unit.references[0] for one in reversed(runs) if one.unit.dataset == dataset.name}
    figures = [
        (2, maps_sheet(own, categories), "defective queries and each method's map, on its own scale"),
        (3, counterparts_sheet(own, categories, first), "defective queries and their normal counterparts"),
    ]
    return [
        Sheet(f"figure-{number}-{dataset.name}.png", f"As figure {number}, {dataset.title}: {caption}.", png)
        for number, png, caption in figures
        if png
    ]


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "unknown"
