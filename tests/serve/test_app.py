"""The builder's arguments, refused where they are wrong."""

import pytest
import yaml
from pydantic import ValidationError

from infra.local.cluster import Cluster
from infra.local.deploy import ROOT
from o2n.errors import FoundationError, StoreError
from serve.app import CONFIG, MAX_DEADLINE_SECONDS, Arguments, build
from serve.catalog import FIRST_SECONDS
from serve.proxy import ANSWER_SECONDS


def test_a_misspelt_key_is_refused() -> None:
    with pytest.raises(ValidationError, match="profil"):
        Arguments.model_validate({"profil": "tiny"})


def test_a_profile_or_store_that_is_none_is_refused() -> None:
    with pytest.raises(FoundationError, match="huge"):
        build(Arguments(profile="huge"))
    with pytest.raises(StoreError, match="http://x"):
        build(Arguments(store="http://x"))


def test_a_deadline_that_the_proxy_or_a_shutdown_would_cut_short_is_refused() -> None:
    assert MAX_DEADLINE_SECONDS + FIRST_SECONDS <= ANSWER_SECONDS
    (application,) = yaml.safe_load(CONFIG.read_text())["applications"]
    for deployment in application["deployments"]:
        assert deployment["graceful_shutdown_timeout_s"] > MAX_DEADLINE_SECONDS
    assert Arguments(deadline_seconds=MAX_DEADLINE_SECONDS)
    with pytest.raises(ValidationError, match=r"deadline_seconds\n.*less than or equal to 40"):
        Arguments(deadline_seconds=MAX_DEADLINE_SECONDS + 1)


def test_every_deployment_of_the_config_exists_in_the_application() -> None:
    config = yaml.safe_load((ROOT / "serve" / "config.yaml").read_text())
    (application,) = config["applications"]
    configured = {deployment["name"] for deployment in application["deployments"]}
    gateway = build(Arguments.model_validate(application["args"]))
    bound = {argument for argument in gateway._bound_deployment.init_args if hasattr(argument, "_bound_deployment")}
    names = {application._bound_deployment.name for application in bound} | {gateway._bound_deployment.name}
    assert names == configured


@pytest.mark.cluster
def test_serve_refuses_a_misspelt_key_too(cluster: Cluster) -> None:
    done = cluster.run(
        "python",
        "-c",
        "from ray.serve._private.api import call_user_app_builder_with_args_if_necessary as call\n"
        "from serve.app import build; call(build, {'profil': 'tiny'})",
        cwd=ROOT,
    )
    assert done.returncode != 0
    assert "profil" in done.stderr
