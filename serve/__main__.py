"""`o2n serve`: the application on a Ray of its own, until interrupted."""

import contextlib
import logging
import os
import signal

import click
import ray
from ray import serve
from ray.serve.exceptions import RayServeException
from ray.serve.schema import LoggingConfig

from o2n.interrupt import until_interrupted
from serve import CLUSTER_ENVIRONMENT
from serve.app import Arguments, build


@click.command()
@click.option("--host", required=True)
@click.option("--port", required=True, type=int)
@click.option("--profile", required=True)
@click.option("--store", required=True)
@click.option("--insecure", is_flag=True)
def main(host: str, port: int, profile: str, store: str, insecure: bool) -> None:
    """Serve over HTTP on this machine alone."""
    until_interrupted()
    # By default Ray puts its workers, and so every replica, behind whatever else the machine does, and warns of those
    # that take over half a minute to come up.
    os.environ.update(CLUSTER_ENVIRONMENT, RAY_worker_niceness="0", RAY_SERVE_SLOW_STARTUP_WARNING_S="120")
    # "local" never attaches to somebody else's cluster. Its size is in whole models, not cores: five deployments.
    ray.init(
        address="local",
        num_cpus=max(6, os.cpu_count() or 1),
        include_dashboard=False,
        logging_level="warning",
    )
    until_interrupted()  # again: Ray has put its own in the place of ours, which ends in a dump of its stack
    try:
        with contextlib.suppress(KeyboardInterrupt):
            logging.getLogger("ray.serve").setLevel(logging.WARNING)
            serve.start(
                http_options={"host": host, "port": port}, logging_config=LoggingConfig(log_level=logging.WARNING)
            )
            serve.run(build(Arguments(profile=profile, store=store, insecure=insecure)), name="o2n", route_prefix="/")
            click.echo(
                f"serving {store} at http://{host}:{port}, try: curl http://{host}:{port}/v1/categories", err=True
            )
            signal.pause()
        # The branches go when the gateway has answered what it has taken on.
        with contextlib.suppress(RayServeException):
            serve.get_app_handle("o2n").broadcast("drain").results(return_exceptions=True)
    finally:
        serve.shutdown()
        ray.shutdown()


if __name__ == "__main__":
    main()
