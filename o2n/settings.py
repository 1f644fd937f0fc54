"""What the environment decides: store, S3 server, models, device, false-positive rate, what evaluations keep."""

from pathlib import Path
from typing import Annotated

from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from o2n.errors import O2NError, in_words

_Server = Annotated[str, Field(pattern=r"^https?://[^\s/]+"), in_words("use http://HOST:PORT or https://HOST")]
_Device = Annotated[str, Field(pattern=r"^(cpu|mps|cuda(:\d+)?)$"), in_words("use cpu, cuda, cuda:1 or mps")]


class Settings(BaseSettings):
    """The settings of this process. A variable that is set but empty counts as not set."""

    model_config = SettingsConfigDict(env_prefix="O2N_", env_ignore_empty=True, frozen=True)

    store: str = Field(
        default_factory=lambda: (Path.home() / ".o2n" / "store").as_uri(),
        description="where categories live: file:///PATH or s3://BUCKET/PREFIX",
    )
    s3_endpoint: _Server | None = Field(None, description="the S3 server, where it is not Amazon's")
    models: Path | None = Field(
        None, description="folder that 'o2n models pull' has filled: looked into before the hub is asked"
    )
    device: _Device | None = Field(None, description="None: cuda where there is one, else cpu")
    false_positive_rate: float = Field(
        0.05,
        ge=1e-9,
        lt=1,
        description="share of normal pictures that may be called anomalous, where none is asked for",
    )
    cache: Path = Field(
        default_factory=lambda: Path.home() / ".cache" / "o2n",
        description="where competing methods keep what they were trained to",
    )
    dino: str | None = Field(None, description="DINOv2 or DINOv3 weights: a directory in timm's hub layout, or a name")


def get_settings() -> Settings:
    """The settings as the environment has them now.

    Raises:
        O2NError: a variable whose value cannot be used.
    """
    try:
        return Settings()
    except ValidationError as error:
        first = error.errors()[0]
        variable = f"O2N_{first['loc'][0]}".upper()
        raise O2NError(f"environment variable {variable} is refused: {first['msg']}: correct it or unset it") from None
