"""Tests of the library: models are loaded in this process, once."""

import pytest

from o2n.foundation import Foundation, load_foundation
from tests.helpers import QUICK


@pytest.fixture(scope="session")
def foundation() -> Foundation:
    return load_foundation(QUICK)
