"""Prompt ensembles."""

from o2n import prompts


def test_every_prompt_names_the_object_and_none_repeats() -> None:
    for texts in (
        prompts.normal_prompts("metal nut"),
        prompts.abnormal_prompts("metal nut"),
        prompts.personal_prompts("metal nut", 10),
    ):
        assert all("metal nut" in text and "{" not in text for text in texts)
        assert len(set(texts)) == len(texts)


def test_normal_and_abnormal_share_no_prompt() -> None:
    assert not set(prompts.normal_prompts("nut")) & set(prompts.abnormal_prompts("nut"))


def test_the_ensembles_are_those_of_the_papers() -> None:
    """WinCLIP: 7 normal and 4 abnormal states in 22 templates. One-to-Normal: 3 states in 10 templates, of which 1, 3,
    5 or 10 are taken."""
    assert len(prompts.TEMPLATES) == 22
    assert len(prompts.normal_prompts("nut")) == 7 * 22
    assert len(prompts.abnormal_prompts("nut")) == 4 * 22
    states = {f"nut without {what}" for what in ("flaw", "defect", "damage")}
    looks = ("small", "large", "bright", "dark", "blurry", "bad", "good", "cropped", "close-up", "low resolution")
    for count in (1, 3, 5, 10):
        found = prompts.personal_prompts("nut", count)
        assert len(found) == count
        assert all(sum(text.endswith(f"{state}.") for state in states) == 1 for text in found)
        assert all(sum(f" {look} " in text for look in looks) == 1 for text in found)
    assert {look for look in looks for text in prompts.personal_prompts("nut", 10) if f" {look} " in text} == set(looks)
    assert {state for state in states for text in prompts.personal_prompts("nut", 3) if state in text} == states


def test_no_words_are_the_empty_prompt() -> None:
    assert prompts.personal_prompts("nut", 0) == [""]


def test_fewer_personal_prompts_are_the_first_of_more() -> None:
    assert prompts.personal_prompts("nut", 3) == prompts.personal_prompts("nut", 10)[:3]
