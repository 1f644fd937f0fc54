"""Profiles: the one dial. A profile is data that names the models and every setting of the method."""

from operator import attrgetter
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from o2n import places
from o2n.errors import FoundationError, PictureError, cause_of
from o2n.prompts import INSTANCE_TEMPLATE

Branch = Literal["S_P", "S_N", "S_text"]
BRANCHES: tuple[Branch, ...] = ("S_P", "S_N", "S_text")

# The levels that the embedded linear maps were trained for; at others the encoder's own projection serves.
EMBEDDED_LEVELS = (2, 4, 5)

Fraction = Annotated[float, Field(ge=0.0, le=1.0)]


class _Settings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


def _since(default: Any, **field: Any) -> Any:
    """A field that profiles did not always have: at its default, which means as before, it is not written down. So
    versions and stages that were stored without it keep their names."""
    return Field(default, exclude_if=lambda value: value == default, **field)


class EncoderSettings(_Settings):
    """A model whose patch features are compared: a CLIP of open_clip, or a vision transformer of timm."""

    source: str = Field(
        description="'embedded', a directory in open_clip's or timm's hub layout, MODEL@WEIGHTS of open_clip, or "
        "timm:MODEL.WEIGHTS"
    )
    revision: str | None = _since(None, description="commit of the hub repository")
    resolution: int = Field(gt=0, description="side of the encoder's input, pixels")
    levels: tuple[int, ...] = Field(min_length=1, description="blocks whose output is a level, counted from 1")
    scales: int = _since(
        1,
        ge=1,
        le=4,
        description="how closely it looks at most: 1, as in the paper, at the picture as a whole; 2 at 2 × 2 parts as "
        "well, each at `resolution`, where a version's pictures are kept large enough for that; and so on",
    )

    gpu_precision: Literal["float32", "float16", "bfloat16"] = _since(
        "float32", description="what it computes in on a GPU; a CPU takes float32"
    )

    def scales_in(self, side: int) -> int:
        """At how many scales it sees a picture of that side, pixels."""
        return max(1, min(self.scales, side // self.resolution))


class DiffusionSettings(_Settings):
    """The diffusion model that redraws a picture as its normal counterpart."""

    source: str = Field(description="'embedded', a directory in diffusers' layout, or a hub repository")
    revision: str | None = Field(None, description="commit of the hub repository; ignored for directories")
    resolution: int = Field(gt=0, description="side of the pictures the model draws, pixels")
    steps: int = Field(gt=0, description="steps of a whole denoising run, t = 1")
    guidance: float = Field(
        ge=1.0, description="classifier-free guidance with which pictures are drawn; 1 is none and costs half"
    )
    solver: Literal["ddim", "dpm++", "unipc"] = _since(
        "ddim", description="DDIM, DPM-Solver++ for 15 to 25 steps of a whole run, UniPC for 5 to 10"
    )
    small_vae: str | None = _since(
        None, description="an autoencoder of few layers in the place of the model's own; directory or hub repository"
    )
    small_vae_revision: str | None = _since(None, description="commit of its hub repository; ignored for directories")
    gpu_precision: Literal["float32", "bfloat16"] = _since(
        "float32", description="what UNet and autoencoder compute in on a GPU; a CPU takes float32"
    )


ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")


class CustomisationSettings(_Settings):
    """DreamBooth with LoRA (eq. 1)."""

    rank: int = Field(gt=0)
    lora_alpha: int = Field(gt=0)
    target_modules: tuple[str, ...] = _since(
        ATTENTION,
        min_length=1,
        description="layers of the UNet that an adapter changes, linear ones and convolutions, by how their names end; "
        "its attention, as DreamBooth's usual adapters do",
    )
    steps: int = Field(gt=0)
    batch: int = Field(gt=0)
    learning_rate: float = Field(gt=0)
    augmentations: int = Field(gt=0, description="augmented pictures made of each reference")
    spoilt: Fraction = Field(0.0, description="share of them noised with a made-up defect; not in the paper")
    checkpointing: bool = _since(
        False, description="computes activations twice rather than keep them: a third of the memory, a third slower"
    )
    prompt: str = _since(
        INSTANCE_TEMPLATE, pattern=r"^[^{}]*\{\}[^{}]*$", description="instance prompt; {} is what the part is called"
    )
    text_encoder: bool = _since(
        False,
        description="trains the text encoder's attention too, with the same rank: knows the part better by its name",
    )
    prior_weight: float = Field(ge=0, description="weight of the class-prior preservation term")
    prior_pictures: int = Field(ge=0, description="class pictures drawn from the base model")


class PoolSettings(_Settings):
    """The anomaly-free pool that feeds the memory bank."""

    pictures: int = Field(
        gt=0,
        description="references and generated pictures; moved views come on top",
    )
    t: Fraction = Field(description="how far references are noised before they are redrawn")
    warps: int = Field(0, ge=0, le=6, description="slightly moved views of each reference added to the bank")
    screened: bool = _since(
        False,
        description="only generated pictures that pass for the references enter the bank, and none twice; for those "
        "that do not others are drawn, as long as some pass",
    )
    budget: int | None = _since(
        None, gt=0, description="bytes that a bank may take as it is onboarded; what is too much is left out by coreset"
    )


# Of a profile, what pictures are judged by: nothing is made of references that hangs on it, but their scores.
JUDGING = ("t", "query_guidance", "prompts", "smoothing", "alpha", "beta", "branches", "fusion")

# Where models come from.
PLACES: dict[str, Any] = {
    "encoder": {"source", "revision"},
    "patch_encoder": {"revision"},  # of timm's models the name alone says what the weights do not
    "diffusion": {"source", "revision", "small_vae", "small_vae_revision"},
    "text_map": True,
}

_FORM = ("customisation.rank", "customisation.lora_alpha", "customisation.target_modules")  # of an adapter


class Profile(_Settings):
    """All of the method's settings; stored whole in every version's manifest."""

    name: str
    encoder: EncoderSettings = Field(description="a CLIP; S_text is its affair, whatever compares pictures")
    patch_encoder: EncoderSettings | None = _since(
        None, description="compares pictures for S_P and S_N in the place of `encoder`, such as a DINOv2 or DINOv3"
    )
    diffusion: DiffusionSettings
    customisation: CustomisationSettings
    pool: PoolSettings
    t: Fraction = Field(description="how far a query is noised, as a fraction of the schedule (eq. 3)")
    query_guidance: float | None = _since(
        None, ge=1.0, description="the same where queries are redrawn (eq. 3, which has none); null: the same number"
    )
    prompts: int = Field(
        ge=0,
        le=10,
        description="normal-state prompts tried on each query (eq. 2); 0: the empty prompt alone",
    )
    text_map: str | None = _since(
        None, description="file of linear maps for S_text, made by jobs/train_text_map.py (eq. 6)"
    )
    place_weight: float = _since(
        0.0,
        ge=0,
        le=100,  # from where rounding begins to hide what the patches look like
        description="what it costs S_N to find a patch elsewhere: times the squared distance of the two places, in "
        "sides of the picture; 0: nothing, as in the paper",
    )
    place_weights: tuple[Annotated[float, Field(ge=0, le=100)], ...] = _since(
        (), description="others, to choose from for each category by what its references tell (`place_weight.py`)"
    )
    smoothing: float = _since(
        0.0,
        ge=0,
        le=4,
        description="over how many patches what a branch says is averaged before its highest value counts: the "
        "deviation of a Gaussian; 0: none, as in the paper",
    )
    alpha: float = Field(ge=0, description="weight of S_N (eq. 7)")
    beta: float = Field(ge=0, description="weight of S_text (eq. 7)")
    branches: tuple[Branch, ...] = _since(
        BRANCHES, min_length=1, description="those that count in the score; all are computed, once, and told"
    )
    fusion: Literal["sum", "calibrated"] = Field(
        "sum", description="what is fused: the branches as they are (eq. 7), or in deviations of the good pictures"
    )
    seed: int = 0

    @property
    def guidance(self) -> float:
        """Classifier-free guidance of eq. (3)."""
        return self.diffusion.guidance if self.query_guidance is None else self.query_guidance

    @property
    def comparing(self) -> EncoderSettings:
        """The encoder of S_P and S_N."""
        return self.patch_encoder or self.encoder

    def fused_as(self, other: "Profile") -> "Profile":
        """This profile with the fusion of another, and its weights."""
        return self.model_copy(update={"fusion": other.fusion, "alpha": other.alpha, "beta": other.beta})

    def resolution(self, side: int) -> int:
        """Side of the pictures that a version keeps and scores, pixels: what the diffusion model draws, or more where
        an encoder looks closer and the references, whose smallest `side` that is, have more to show."""
        closer = [one for one in (self.encoder, self.comparing) if one.scales_in(side) > 1]
        return max([self.diffusion.resolution, *(one.scales_in(side) * one.resolution for one in closer)])

    @property
    def reads_by(self) -> str:
        """What brings patch features to the texts of S_text, in words."""
        if self.text_map:
            return f"linear maps of {self.text_map}"
        if self.encoder.source == "embedded" and self.encoder.levels == EMBEDDED_LEVELS:
            return "embedded linear maps"
        return "the encoder's own projection, no trained maps"

    def differs_by(self, other: "Profile") -> list[str]:
        """The settings for which a version of one is scored otherwise than one of the other, or cannot be scored beside
        it: adapters of one form share a UNet. How versions are made may differ in all else, and so may the places that
        models come from: what they are, `Foundation.identity` tells."""
        made = dict.fromkeys(("name", "customisation", "pool", "place_weights", "seed"), True)
        own, others = (one.model_dump(exclude={**made, **PLACES}) for one in (self, other))
        names = [name for name in type(self).model_fields if own.get(name) != others.get(name)]
        return [*names, *(name for name in _FORM if attrgetter(name)(self) != attrgetter(name)(other))]


TINY = Profile(
    name="tiny",
    encoder=EncoderSettings(source="embedded", resolution=64, levels=(2, 4, 5), scales=2),
    diffusion=DiffusionSettings(source="embedded", resolution=64, steps=20, guidance=1.0),
    customisation=CustomisationSettings(
        rank=4,
        lora_alpha=4,
        # Fine detail is drawn where there is no attention: by it alone 33% of a defect went, and not 40%.
        target_modules=(
            *ATTENTION,
            "proj_in",
            "proj_out",
            "ff.net.0.proj",
            "ff.net.2",
            "conv1",
            "conv2",
            "conv_in",
            "conv_out",
        ),
        steps=20,
        batch=4,
        learning_rate=3e-3,
        augmentations=8,
        spoilt=0.75,
        prior_weight=1.0,
        prior_pictures=8,
    ),
    pool=PoolSettings(pictures=12, t=0.3, warps=6),
    t=0.05,
    prompts=3,
    place_weight=3.0,
    place_weights=(0.0, 10.0),
    smoothing=0.6,
    alpha=6.0,
    beta=0.25,
    fusion="calibrated",
)

PAPER = Profile(
    name="paper",
    # OpenAI's weights were trained with QuickGELU; the plain variant loads them without a word and is wrong.
    encoder=EncoderSettings(
        source="ViT-L-14-quickgelu@openai",
        revision="18d0535469bb561bf468d76c1d73aa35156c922b",
        resolution=240,
        levels=(6, 12, 18, 24),
        gpu_precision="float16",
    ),
    diffusion=DiffusionSettings(
        source="stable-diffusion-v1-5/stable-diffusion-v1-5",
        revision="451f4fe16113bff5a5d2269ed5ad43b0592e9a14",
        resolution=512,
        steps=50,
        guidance=7.5,
        gpu_precision="bfloat16",
    ),
    customisation=CustomisationSettings(
        rank=16,
        lora_alpha=16,
        steps=800,
        batch=2,
        learning_rate=1e-4,
        augmentations=16,
        prior_weight=1.0,
        prior_pictures=64,
    ),
    pool=PoolSettings(pictures=30, t=0.5, screened=True),
    t=0.3,
    query_guidance=1.0,  # as eq. (3) is written, and all that its published times have room for
    prompts=3,
    alpha=1.0,
    beta=0.5,
)

# The same models on a quarter of the pixels, with 3 steps of one prompt and without guidance, and a small autoencoder.
FAST = PAPER.model_copy(
    update={
        "name": "fast",
        "diffusion": PAPER.diffusion.model_copy(
            update={
                "resolution": 256,
                "steps": 10,
                "guidance": 1.0,
                "solver": "unipc",
                "small_vae": "madebyollin/taesd",
                "small_vae_revision": "614f76814bbe30edbe2e627ace1c2234c81a2c0e",
            }
        ),
        "prompts": 1,
    }
)

PROFILES = {profile.name: profile for profile in (TINY, PAPER, FAST)}


def get_profile(name: str) -> Profile:
    """The profile called `name`, or the one in the JSON file at the path or s3:// URL `name`.

    Raises:
        FoundationError: no profile of that name, or a file that is no profile. StoreError: S3 cannot be reached.
    """
    if name in PROFILES:
        return PROFILES[name]
    if not name.endswith(".json"):
        raise FoundationError(
            f"profile {name!r} is unknown: use one of {', '.join(PROFILES)} or the path of a .json file"
        )
    try:
        return Profile.model_validate_json(places.read_bytes(name))
    except ValidationError as error:
        raise FoundationError(f"profile file {name} is not a profile: {cause_of(error)}") from None
    except PictureError as error:  # that of all files and objects that cannot be read
        raise FoundationError(f"profile file {error}") from None
