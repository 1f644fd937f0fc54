"""Measure the service and the offline job against the library, and the library stage by stage, on this machine.

    python jobs/benchmark.py serving --json serving.json
    python jobs/benchmark.py scoring --profile tiny --json scoring.json
    python jobs/benchmark.py offline --json offline.json

`serving` onboards a few categories into a store of its own, starts a Ray cluster of its own with one replica of every
deployment, and takes the bare `TripletScorer` loop and HTTP in turns on the same pictures: what others do on the
machine meanwhile is in both, so read the ratios. `offline` does the same with one and two workers of the offline job.
`scoring` times every stage of the method; on a GPU it waits for the device and tells its memory.
"""

import sys
from pathlib import Path

import click

# `python jobs/benchmark.py` looks for modules beside itself, and jobs/ and infra/ are in the checkout alone.
sys.path.insert(0, str(Path(__file__).parents[1]))

from jobs.benchmarks.offline import offline
from jobs.benchmarks.scoring import scoring
from jobs.benchmarks.serving import serving
from o2n.options import OneLineErrors


@click.group(cls=OneLineErrors)
def main() -> None:
    """How fast this machine scores: over HTTP and offline beside the bare loop, and stage by stage."""


for command in (serving, scoring, offline):
    main.add_command(command)


if __name__ == "__main__":
    main()
