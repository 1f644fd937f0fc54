"""Jobs that fail on a local cluster are told with the end of their log."""

from pathlib import Path

import pytest

from infra.local.cluster import Cluster
from infra.local.deploy import StepError, submit

pytestmark = pytest.mark.cluster


def test_a_job_that_fails_is_told_with_what_it_said_last(cluster: Cluster, tmp_path: Path) -> None:
    with pytest.raises(StepError, match=r"jobs/onboard_category.py failed; its log ends with: .*nothing-here"):
        submit(cluster, "jobs/onboard_category.py", "bolts", "--references", str(tmp_path / "nothing-here"))
