"""`o2n serve`: the application on a Ray of its own, until interrupted."""

import contextlib
import logging
import os
import signal
import sys

import click
import ray
from ray import serve
from ray.serve.exceptions import RayServeException
from ray.serve.schema import LoggingConfig

from o2n.interrupt import SIGNALS, until_interrupted
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
    # By default Ray puts its workers, and so every replica, behind whatever else the machine does, and warns of those
    # that take over half a minute to come up.
    os.environ.update(CLUSTER_ENVIRONMENT, RAY_worker_niceness="0", RAY_SERVE_SLOW_STARTUP_WARNING_S="120")
    if not sys.stderr.isatty():
        os.environ["RAY_COLOR_PREFIX"] = "0"  # no colours in a file
    # "local" never attaches to somebody else's cluster. Its size is in whole models, not cores: five deployments.
    ray.init(
        address="local",
        num_cpus=max(6, os.cpu_count() or 1),
        include_dashboard=False,
        logging_level="warning",
    )
    until_interrupted()  # only now: Ray has put its own in their place, which ends in a dump of its stack
    ready = False
    try:
        with contextlib.suppress(KeyboardInterrupt):
            signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)  # `o2n serve` has held them back
            logging.getLogger("ray.serve").setLevel(logging.WARNING)
            serve.start(
                http_options={"host": host, "port": port}, logging_config=LoggingConfig(log_level=logging.WARNING)
            )
            application = build(Arguments(profile=profile, store=store, insecure=insecure))
            serve.run(application, name="o2n", route_prefix="/", logging_config={"enable_access_log": False})
            ready = True
            click.echo(f"serving {store} at http://{host}:{port}: open it in a browser", err=True)
            signal.pause()
        with contextlib.suppress(OSError):  # whoever read what is said here may have been stopped, too
            click.echo("stopping", err=True)
        if ready:  # the branches go when the gateway has answered what it has taken on
            with contextlib.suppress(RayServeException):
                serve.get_app_handle("o2n").broadcast("drain").results(return_exceptions=True)
    finally:
        ray.shutdown()


if __name__ == "__main__":
    main()
