"""Ray job: the paper's evaluation, on the data sets that are on disk, by all methods that can run.

    ray job submit --working-dir . -- python jobs/evaluate.py --data /data --profile paper --gpus 1
    python jobs/evaluate.py --data /data --datasets mvtec,visa --methods one-to-normal,patchcore --queries 40
    python jobs/evaluate.py --data /data --profile paper.json --text-map mvtec=visa.safetensors

Each data set lies in its own folder of --data, as published: mvtec, visa, kolektor, aitex, elpv, magnetic-tile,
oct2017, brainmri, headct, resc, mnist, mnist-t10k, cifar10; a folder of any other name counts as one in MVTec layout;
`families` are procedural and need none. Without a cluster it starts a local one. What is done is kept in --cache: a run
that was killed goes on where it stopped when the same command is given again.
"""

import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import click
import ray
from tqdm import tqdm

from o2n.data.datasets import DATASETS, data_set
from o2n.data.datasets.base import DataSet, LabelledCategory
from o2n.errors import DataSetError, O2NError
from o2n.evaluation.options import names, numbers, pairs
from o2n.evaluation.plan import PlannedUnit, Protocol, complete, missing, plan
from o2n.evaluation.protocol import ALL_METHODS, Unit
from o2n.evaluation.report import about, report
from o2n.evaluation.results import write
from o2n.evaluation.times import Times, measure, take_times
from o2n.options import (
    OneLineErrorsCommand,
    connect_ray,
    gpus_of_a_worker,
    gpus_option,
    print_json,
    profile_option,
)
from o2n.profiles import Profile


@dataclass(frozen=True)
class Survey:
    """Which weights these are, as versions know them (`Foundation.identity`), and in words, model by model, as the
    device holds them; what they compute on; of each method that can run its revision, and what it was trained on, if it
    was; why the others cannot run."""

    identity: str
    weights: dict[str, str]
    device: str
    processor: str
    revisions: dict[str, str]
    trained_on: dict[str, str]
    left_out: dict[str, str]

    @property
    def models(self) -> str:
        """Under which outcomes are kept: on a GPU the same weights compute other scores."""
        return self.identity if self.device == "cpu" else f"{self.identity} on {self.device}"


@click.command(cls=OneLineErrorsCommand)
@click.option("--data", type=click.Path(path_type=Path), required=True, help="Folder of the data sets' folders.")
@click.option(
    "--datasets", default="", callback=names(), metavar="LIST", help="Default: all that are there, and `families`."
)
@click.option(
    "--methods", default=",".join(ALL_METHODS), show_default=True, callback=names(ALL_METHODS), metavar="LIST"
)
@click.option("--shots", default="2,4,8", show_default=True, callback=numbers(2), metavar="LIST")
@click.option("--draws", default=5, show_default=True, type=click.IntRange(1), help="Draws of the references.")
@click.option("--queries", type=click.IntRange(8), help="Ask at most this many pictures of a category. Default: all.")
@click.option(
    "--pixels",
    default=256,
    show_default=True,
    type=click.IntRange(16),
    help="Side of maps and masks. 256 queries of 256 × 256 take 1 GB while they are measured.",
)
@click.option("--pool", default=100, show_default=True, type=click.IntRange(0), help="Pictures for figure 4; 0: none.")
@click.option(
    "--prompts",
    default="0,1,10",
    show_default=True,
    callback=numbers(0, 10),
    metavar="LIST",
    help="For table 5; 0: no text.",
)
@profile_option
@click.option(
    "--text-map",
    "text_maps",
    multiple=True,
    callback=pairs("DATASET=FILE"),
    metavar="DATASET=FILE",
    help="Linear maps of S_text for one data set; the others keep the profile's. May be given again for another.",
)
@click.option(
    "--cache",
    type=click.Path(path_type=Path),
    default=Path("o2n-evaluation"),
    show_default=True,
    help="What is done, and the draws; on several nodes a folder that all share.",
)
@click.option("--output", type=click.Path(path_type=Path), default=Path("o2n-results"), show_default=True)
@click.option("--cpus", type=click.IntRange(1), help="Units at a time. Default: the cluster's cores.")
@gpus_option
@click.option("--tables-only", is_flag=True, help="Run nothing; write what is known so far.")
def main(
    data: Path,
    datasets: list[str],
    methods: list[str],
    shots: tuple[int, ...],
    draws: int,
    queries: int | None,
    pixels: int,
    pool: int,
    prompts: tuple[int, ...],
    profile: Profile,
    text_maps: dict[str, str],
    cache: Path,
    output: Path,
    cpus: int | None,
    gpus: float | None,
    tables_only: bool,
) -> None:
    """Write the paper's tables, with its own figures beside ours."""
    if not shots:
        raise click.BadParameter("give numbers of shots from 2 on", param_hint="--shots")
    cache = cache.absolute()
    settings = Protocol(shots, draws, queries, pixels, pool, prompts)
    loaded = load(data.absolute(), datasets)
    connect_ray()
    gpus = gpus_of_a_worker(gpus)
    look = ray.remote(num_cpus=1, num_gpus=gpus)(survey)
    runs: list[PlannedUnit] = []
    surveys: dict[str | None, Survey] = {}
    for read_by, datasets_of_it in by_profile(profile, text_maps, loaded):
        surveys[read_by.text_map] = found = ray.get(look.remote(read_by, methods))
        runs += plan(datasets_of_it, found.revisions, settings, read_by, found.models, cache)
    for method, why in found.left_out.items():
        click.echo(f"{method} is left out: {why}")
    failed: list[str] = []
    if not tables_only:
        done = len(runs) - len(missing(runs))
        in_flight = cpus or max(1, int(ray.cluster_resources().get("CPU", 1)))
        with tqdm(total=len(runs), initial=done, unit="unit", mininterval=5) as bar:
            for one, error in complete(runs, in_flight, gpus):
                bar.update()
                if error:
                    failed.append(f"{one.unit.name}: {error}")
                    bar.write(failed[-1])
    task = ray.remote(num_cpus=1, num_gpus=gpus)(measure)

    def timed(unit: Unit) -> Times | None:
        try:
            return None if tables_only else ray.get(task.remote(unit, profile))
        except (O2NError, ray.exceptions.RayError):  # its units have said why
            return None

    times = take_times(runs, found.processor, timed)
    known = [outcome for one in runs if (outcome := one.outcome())]
    weights = {None if file == profile.text_map else file: one.weights for file, one in surveys.items()}
    facts = [
        (
            "command",
            shlex.join(["python", "jobs/evaluate.py", *(one for one in sys.argv[1:] if one != "--tables-only")]),
        ),
        ("units", f"{len(known)} of {len(runs)} done, {len(failed)} failed"),
        *((f"{method} left out", why) for method, why in found.left_out.items()),
        *((f"{method} was trained on", what) for method, what in found.trained_on.items()),
        *((f"text map of {name}", file) for name, file in text_maps.items()),
        *about(loaded, settings, profile, weights, found.revisions, known, ray.cluster_resources()),
    ]
    files = write(report(known, times, loaded, runs, profile, facts), output)
    print_json({"units": len(runs), "done": len(known), "failed": failed, "output": str(output), "files": len(files)})
    sys.exit(1 if failed else 0)


def load(data: Path, names: Sequence[str]) -> list[tuple[DataSet, list[LabelledCategory]]]:
    """The data sets `names` in `data`; without names all that are there, and the procedural families.

    Raises:
        DataSetError: one that is not there, or not as published; or there is no folder `data`.
    """
    if not data.is_dir():
        raise DataSetError(f"{data}: no such folder: give --data one that has a folder for each data set")
    found = names or [name for name in DATASETS if (data / name).is_dir() or name == "families"]
    if not names and found == ["families"]:
        looked_for = ", ".join(name for name in DATASETS if name != "families")
        click.echo(
            f"only `families` are judged, which are procedural: {data} has no folder {looked_for}; "
            "folders of other names are judged if --datasets has them"
        )
    chosen = [data_set(name) for name in dict.fromkeys(found)]
    return [(dataset, dataset.load(data / dataset.name)) for dataset in chosen]


def by_profile(
    profile: Profile, text_maps: dict[str, str], loaded: list[tuple[DataSet, list[LabelledCategory]]]
) -> list[tuple[Profile, list[tuple[DataSet, list[LabelledCategory]]]]]:
    """Which data sets are judged by the profile itself, if any are, and which with each text map in its place.

    Raises:
        DataSetError: a text map for a data set that is not judged.
    """
    if strange := set(text_maps) - {dataset.name for dataset, _ in loaded}:
        raise DataSetError(f"--text-map for {', '.join(sorted(strange))}: not among --datasets")
    maps = [text_maps.get(dataset.name, profile.text_map) for dataset, _ in loaded]
    return [
        (
            profile.model_copy(update={"text_map": one}),
            [of_it for of_it, its_map in zip(loaded, maps, strict=True) if its_map == one],
        )
        for one in dict.fromkeys(sorted(maps, key=lambda its_map: its_map != profile.text_map))
    ]


def survey(profile: Profile, methods: list[str]) -> Survey:
    """On a worker, which has the models."""
    from o2n.device import processor
    from o2n.evaluation.protocol import build, revision
    from o2n.foundation import load_foundation
    from o2n.models import weights_sha256

    revisions, trained_on, left_out = {}, {}, {}
    for method in methods:
        try:
            built = build(method, profile)
        except O2NError as error:
            left_out[method] = str(error)
            continue
        revisions[method] = revision(built)
        if auxiliary := getattr(built, "trained_on", None):
            trained_on[method] = auxiliary
    foundation = load_foundation(profile)
    device = foundation.diffusion.device.type
    weights = {"profile, together": f"{foundation.identity}, as o2n doctor has it"}
    for name, model in foundation.models.items():
        weights[name] = f"sha256 {weights_sha256([model])} in {next(model.parameters()).dtype}".replace("torch.", "")
    return Survey(foundation.identity, weights, device, processor(), revisions, trained_on, left_out)


if __name__ == "__main__":
    main()
