"""What the environment decides: `O2N_STORE`, `O2N_S3_ENDPOINT`, `O2N_DEVICE`, `O2N_FALSE_POSITIVE_RATE`, and for
evaluations `O2N_CACHE` and `O2N_DINO`."""

from pathlib import Path

from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from o2n.errors import O2NError


class Settings(BaseSettings):
    """The settings of this process. A variable that is set but empty counts as not set."""

    model_config = SettingsConfigDict(env_prefix="O2N_", env_ignore_empty=True, frozen=True)

    store: str = Field(
        default_factory=lambda: (Path.home() / ".o2n" / "store").as_uri(),
        description="where categories live: file:///PATH or s3://BUCKET/PREFIX",
    )
    s3_endpoint: str | None = Field(
        None, pattern=r"^https?://[^\s/]+", description="the S3 server, where it is not Amazon's"
    )
    device: str | None = Field(
        None, pattern=r"^(cpu|mps|cuda(:\d+)?)$", description="None: cuda where there is one, else cpu"
    )
    false_positive_rate: float = Field(
        0.05, gt=0, lt=1, description="share of normal pictures that may be called anomalous, where none is asked for"
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
