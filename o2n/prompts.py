"""Prompt ensembles: what normal and abnormal are called. Plain text, no models."""

# One-to-Normal, appendix A.1, figure 5: state level (a) and physical level (b).
PERSONAL_STATES = ("{} without flaw", "{} without defect", "{} without damage")
PERSONAL_TEMPLATES = (
    "a good photo of a {}.",
    "a close-up photo of the {}.",
    "a bright photo of the {}.",
    "a dark photo of the {}.",
    "a blurry photo of the {}.",
    "a low resolution photo of the {}.",
    "a cropped photo of the {}.",
    "a photo of the small {}.",
    "a photo of the large {}.",
    "a bad photo of the {}.",
)

# WinCLIP (Jeong et al., CVPR 2023), appendix: compositional prompt ensemble.
NORMAL_STATES = (
    "{}",
    "flawless {}",
    "perfect {}",
    "unblemished {}",
    "{} without flaw",
    "{} without defect",
    "{} without damage",
)
ABNORMAL_STATES = ("damaged {}", "{} with flaw", "{} with defect", "{} with damage")
TEMPLATES = (
    "a cropped photo of the {}.",
    "a cropped photo of a {}.",
    "a close-up photo of a {}.",
    "a close-up photo of the {}.",
    "a bright photo of a {}.",
    "a bright photo of the {}.",
    "a dark photo of the {}.",
    "a dark photo of a {}.",
    "a jpeg corrupted photo of a {}.",
    "a jpeg corrupted photo of the {}.",
    "a blurry photo of the {}.",
    "a blurry photo of a {}.",
    "a photo of a {}.",
    "a photo of the {}.",
    "a photo of a small {}.",
    "a photo of the small {}.",
    "a photo of a large {}.",
    "a photo of the large {}.",
    "a photo of the {} for visual inspection.",
    "a photo of a {} for visual inspection.",
    "a photo of the {} for anomaly detection.",
    "a photo of a {} for anomaly detection.",
)


def instance_prompt(object_word: str) -> str:
    """The prompt a category is customised with (eq. 1)."""
    return f"a photo of normal {object_word}"


def class_prompt(object_word: str) -> str:
    """The prompt of the class-prior pictures (eq. 1)."""
    return f"a photo of {object_word}"


def personal_prompts(object_word: str, count: int) -> list[str]:
    """The first `count` (0-10) normal-state prompts that a query is redrawn with (eq. 2), states taking turns; of none
    the empty one is left, the "w/o text" of the paper's table 5."""
    if count == 0:
        return [""]
    return [
        template.format(PERSONAL_STATES[index % len(PERSONAL_STATES)].format(object_word))
        for index, template in enumerate(PERSONAL_TEMPLATES[:count])
    ]


def normal_prompts(object_word: str) -> list[str]:
    """Every normal state in every template (eq. 6)."""
    return _compose(NORMAL_STATES, object_word)


def abnormal_prompts(object_word: str) -> list[str]:
    """Every abnormal state in every template (eq. 6)."""
    return _compose(ABNORMAL_STATES, object_word)


def _compose(states: tuple[str, ...], object_word: str) -> list[str]:
    return [template.format(state.format(object_word)) for state in states for template in TEMPLATES]
