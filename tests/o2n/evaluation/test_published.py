"""The paper's figures: as many as its tables have, and some of them by hand."""

import csv
from collections import Counter
from pathlib import Path

from o2n.data.datasets import DATASETS
from o2n.evaluation import published as module
from o2n.evaluation.published import SAME_AS, Published, published


def test_figures_copied_by_hand() -> None:
    assert published("1", "mvtec", 2, "one-to-normal", "AUROC") == Published(95.1, 0.9)
    assert published("1", "elpv", 8, "padim", "AUPRC") == Published(79.8, 1.4)
    assert published("1", "aitex", 4, "inctrl", "AUROC") == Published(79.0, 1.8)
    assert published("2", "resc", 4, "one-to-normal", "AUPRC") == Published(93.2, 0.9)
    assert published("2", "brainmri", 2, "regad", "AUROC") == Published(44.9, 12.9)
    assert published("3", "cifar10", 8, "winclip", "AUROC") == Published(92.8, 0.1)
    assert published("4", "resc", 8, "S_text", "AUROC") == Published(39.6, None)
    assert published("5", "cifar10", 8, "no text", "AUROC") == Published(93.7, None)
    assert published("figure-4", "", 8, "regad", "AUROC gained") == Published(10.2, None)
    assert published("figure-4", "oct2017", None, "patchcore", "AUROC gained") == Published(10.9, None)
    assert published("time", "", None, "winclip", "ms") == Published(389, None)


def test_what_the_paper_leaves_out_is_left_out() -> None:
    assert published("2", "oct2017", 2, "padim", "AUROC") is None
    assert published("2", "headct", 2, "coop", "AUROC") is None
    assert published("1", "magnetic-tile", 2, "padim", "AUROC") is None


def test_all_of_each_table() -> None:
    with Path(module.__file__).with_name("published.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    # Table 2 lacks PaDiM on two data sets.
    assert Counter(row["table"] for row in rows) == {
        "1": 5 * 3 * 7 * 2,
        "2": (4 * 3 * 6 - 2 * 3) * 2,
        "3": 2 * 3 * 6 * 2,
        "4": 2 * 11,
        "5": 2 * 11,
        "figure-4": 3 + 2,
        "time": 3,
    }
    assert all(0 < float(row["mean"]) <= 100 for row in rows if row["table"] != "time")
    assert {row["dataset"] for row in rows} - {""} <= set(DATASETS)


def test_mnists_test_pictures_are_held_against_mnist() -> None:
    assert SAME_AS["mnist-t10k"] == "mnist"
    assert published("3", "mnist-t10k", 8, "one-to-normal", "AUROC") == Published(93.6, 0.2)
