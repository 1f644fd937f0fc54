"""What the environment decides."""

from pathlib import Path

import pytest

from o2n.errors import O2NError
from o2n.settings import get_settings


def test_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("O2N_STORE", "O2N_S3_ENDPOINT", "O2N_DEVICE", "O2N_FALSE_POSITIVE_RATE"):
        monkeypatch.delenv(name, raising=False)
    settings = get_settings()
    assert settings.store == (Path.home() / ".o2n" / "store").as_uri()
    assert settings.s3_endpoint is None
    assert settings.device is None
    assert settings.false_positive_rate == 0.05


def test_empty_counts_as_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("O2N_DEVICE", "")
    assert get_settings().device is None


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("O2N_S3_ENDPOINT", "localhost:9000", "use http://HOST:PORT or https://HOST"),
        ("O2N_DEVICE", "gpu", "use cpu, cuda, cuda:1 or mps"),
        ("O2N_FALSE_POSITIVE_RATE", "0", "greater than or equal to 0.000000001"),
        ("O2N_FALSE_POSITIVE_RATE", "1e-320", "greater than or equal to 0.000000001"),
        ("O2N_FALSE_POSITIVE_RATE", "1", "less than 1"),
        ("O2N_FALSE_POSITIVE_RATE", "5%", "number"),
    ],
)
def test_a_bad_value_names_its_variable_and_what_it_takes(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, said: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(O2NError, match=name) as refused:
        get_settings()
    assert said in str(refused.value)
