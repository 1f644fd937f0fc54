"""Command-line options that the `o2n` command and the jobs share, and how both end on an error."""

import json
import math
import os
import sys
from typing import Any

import click

from o2n.errors import O2NError
from o2n.profiles import get_profile
from o2n.settings import get_settings
from o2n.store import CategoryStore


class Number(click.FloatRange):
    """`click.FloatRange` without "nan", which no bound keeps out, and "inf"."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        number = float(super().convert(value, param, ctx))
        if not math.isfinite(number):
            self.fail(f"{value} is no finite number", param, ctx)
        return number


def _store(context: click.Context, parameter: click.Parameter, url: str | None) -> CategoryStore:
    return CategoryStore(url or get_settings().store)


store_option = click.option(
    "--store",
    callback=_store,
    metavar="URL",
    help="Where categories live: file:///path or s3://bucket/prefix. Default: $O2N_STORE, else ~/.o2n/store.",
)
profile_option = click.option(
    "--profile",
    default="tiny",
    show_default=True,
    callback=lambda context, parameter, name: get_profile(name),
    help="Models and settings: tiny, paper, fast, or the path or s3:// URL of a profile's JSON file.",
)


def refuse_empty(context: click.Context, parameter: click.Parameter, place: str | None) -> str | None:
    """The callback of options that name a place: one from a variable that is not set is not the current folder."""
    if place is not None and not place.strip():
        raise click.BadParameter("is empty: is the variable set that it comes from?")
    return place


references_option = click.option(
    "--references",
    metavar="PLACE",
    callback=refuse_empty,
    help="Folder or s3:// prefix with 2 to 8 pictures of good parts, in it or in its train/good.",
)
object_option = click.option(
    "--object",
    "object_word",
    metavar="WORD",
    help="What prompts call the part, such as 'metal nut'. Default: the category's name.",
)
more_normal_option = click.option(
    "--more-normal",
    metavar="PLACE",
    callback=refuse_empty,
    help="Folder or s3:// prefix of further good pictures, for thresholds alone: with 19, a false-positive rate of 5% "
    "can be promised.",
)


DEFAULT_GPUS = 0.5
gpus_option = click.option(
    "--gpus",
    type=Number(0),
    help=f"GPUs a worker; a fraction lets several share one. Default: {DEFAULT_GPUS} on a cluster with GPUs, else 0.",
)


def gpus_of_a_worker(asked: float | None) -> float:
    """What `--gpus` comes to on the cluster that is connected. A worker that asks Ray for none still sees them all, and
    would take the first one's memory beside every other such worker."""
    import ray

    return asked if asked is not None else DEFAULT_GPUS if ray.cluster_resources().get("GPU") else 0.0


def _rate(context: click.Context, parameter: click.Parameter, rate: float | None) -> float:
    return get_settings().false_positive_rate if rate is None else rate


rate_option = click.option(
    "--false-positive-rate",
    "rate",
    type=Number(1e-9, 1, max_open=True),
    callback=_rate,
    metavar="RATE",
    help="Share of good pictures that may be called anomalous. Default: $O2N_FALSE_POSITIVE_RATE, else 0.05.",
)


def connect_ray(slots: int = 1) -> None:
    """Join the cluster of $RAY_ADDRESS, which `ray job submit` sets, or else start a Ray of this process's own.

    Never any other: a bare `ray.init()` would attach to whatever cluster was left running on the machine.

    Args: slots: how many cores a Ray of its own gives out at least, however many there are.
    """
    import ray

    address = os.environ.get("RAY_ADDRESS", "local")
    cores = max(slots, os.cpu_count() or 1) if address == "local" else None
    ray.init(address=address, num_cpus=cores, ignore_reinit_error=True, logging_level="warning")


class OneLineErrorsCommand(click.Command):
    """Ends with `error: …` on one line and status 1 instead of a traceback, for errors a user can act on; options are
    parsed inside it too. -h is --help."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{"context_settings": {"help_option_names": ["-h", "--help"]}, **kwargs})

    def main(self, *args: Any, **kwargs: Any) -> Any:
        try:
            return super().main(*args, **kwargs)
        except O2NError as error:
            click.echo(f"error: {error}", err=True)
            sys.exit(1)


class OneLineErrors(OneLineErrorsCommand, click.Group):
    """The same for all commands of a group."""


def print_json(value: Any) -> None:
    """One JSON document on one line of standard output."""
    click.echo(json.dumps(value, default=str))
