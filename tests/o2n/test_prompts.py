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


def test_fewer_personal_prompts_are_the_first_of_more() -> None:
    assert prompts.personal_prompts("nut", 3) == prompts.personal_prompts("nut", 10)[:3]
