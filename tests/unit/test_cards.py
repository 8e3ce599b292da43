"""The card of a candidate, as values and as a page; and what a rebuild says that came out different."""

import xml.etree.ElementTree as ET
from typing import Any

import msgspec

from api.cards import CALIBRATION_FILE, CURVE_FILE, calibration, card_of, card_page, curve
from api.cli.rounds import rebuild_words
from streams.recipes import LoraRecipe
from tests.samples import MADE_WITH

ROUND: dict[str, Any] = {
    "round_id": "round-7",
    "domain": "allotments",
    "number": 7,
    "step": "released",
    "pin": 99,
    "base_release": 2,
    "base_model": "sha256:a0",
    "opening": False,
    "snapshot": "sha256:5e",
    "kept": 12,
    "earlier": 30,
    "wordings": 48,
    "dropped": {"repeated": 2},
    "pairs": 0,
    "pairs_held_out": 0,
    "labels": 0,
    "held": {},
    "read": None,
    "model": "sha256:b1",
    "adapter": "sha256:c2",
    "evaluation": "sha256:e4",
    "release": 3,
    "requested_at": "2026-11-02T09:00:00Z",
    "rebuild": None,
    "training": {
        "steps": 40,
        "duration_s": 61.5,
        "cpu_s": 101.25,
        "rows": 20,
        "tokens": 4096,
        "losses": [2.5, 0.75, 0.125],
        "made_with": msgspec.to_builtins(MADE_WITH),
    },
    "verdict": {
        "outcome": "ship",
        "words": "ships | it",
        "checks": [{"name": "held_out", "n": 20, "before": 0.25, "after": 0.5}, {"name": "general", "n": 200}],
    },
}


def card(**changed: Any) -> dict[str, Any]:
    return card_of(ROUND | changed, LoraRecipe(rank=8, seed=5), 2, "sha256:a2", "apache-2.0")


def test_the_page_holds_snapshot_recipe_base_libraries_seed_machine_time_losses_scores_and_licence() -> None:
    page = card_page(card())
    for said in (
        "allotments@3",
        "| snapshot | sha256:5e |",
        "| rank | 8 |",
        "| seed | 5 |",
        "| trained from | allotments@2, sha256:a2 |",
        "| base | sha256:a0 |",
        "| torch | 2.13.0 |",
        "| processor | Allotment 9000 |",
        "| threads | 2 |",
        "| CPU seconds | 101.2 |",
        "2.5, 0.75, 0.125",
        f"]({CURVE_FILE})",
        "| held_out | 20 | 0.25 | 0.5 |",
        "| licence of the base | apache-2.0 |",
        "repeated 2",
    ):
        assert said in page, said


def test_what_began_at_a_base_says_so_and_names_no_release() -> None:
    page = card_page(card_of(ROUND, LoraRecipe(), None, "sha256:a0", None))
    assert "| trained from | the base, sha256:a0 |" in page and "| licence of the base | not stated |" in page


def test_the_pairs_of_a_round_that_learns_from_them_stand_there_and_what_was_held_back() -> None:
    page = card_page(card(pairs=7, pairs_held_out=3, labels=0, held={"both sides are the same": 2}, read={"0": 3}))
    assert "| pairs | 7 |" in page and "| held back | both sides are the same 2 |" in page
    assert "pairs" not in card_page(card())


def test_what_is_not_known_of_a_round_of_an_older_version_stands_there_as_not_known() -> None:
    page = card_page(card(training=None, verdict=None, release=None, step="failed"))
    assert (
        "| CPU seconds | – |" in page
        and CURVE_FILE not in page
        and "has not judged" in page
        and "round 7: failed" in page
    )


def test_the_curve_is_a_picture_with_a_point_for_each_epoch_the_highest_at_the_top() -> None:
    for losses in ((2.5, 0.75, 0.125), (0.5,), (), (0.0, 0.0)):
        picture = ET.fromstring(curve(losses))
        dots = [float(dot.attrib["cy"]) for dot in picture.iter("{http://www.w3.org/2000/svg}circle")]
        assert len(dots) == len(losses)
        assert dots == sorted(dots)


def test_a_rebuild_that_came_out_different_names_what_was_another() -> None:
    told = {"outcome": "differs", "at": "2026-11-02T09:00:00Z", "model": "sha256:b7", "erased": 0}
    other = [
        {"what": "torch", "before": "2.13.0", "after": "2.14.0"},
        {"what": "peft", "before": "", "after": "0.21.2"},
    ]
    assert "torch 2.14.0 for 2.13.0; peft 0.21.2 for none" in rebuild_words(told | {"differences": other})
    assert "with the same libraries, on the same kind of machine" in rebuild_words(told | {"differences": []})
    assert "on another kind of machine?" in rebuild_words(told | {"differences": None})
    assert "without 3 examples" in rebuild_words(told | {"erased": 3, "differences": None})


def test_the_card_of_a_reward_model_says_how_often_it_is_right_and_draws_how_sure_it_is() -> None:
    bins = [{"pairs": 9, "predicted": 0.6, "won": 0.5}, {"pairs": 15, "predicted": 0.9, "won": 0.8}]
    told = {
        "held_out_pairs": 24.0,
        "held_out_rankings": 4.0,
        "accuracy": 0.75,
        "accuracy_low": 0.3,
        "accuracy_high": 0.95,
    }
    page = card_page(card(step="kept", training={"metrics": told, "calibrated": bins}))
    assert (
        "Of 24 pairs of 4 rankings that were held out, it puts the better answer first in 75.0% (95 %: 30.0% to 95.0%)"
        in page
    )
    assert "| 15 | 0.900 | 0.800 |" in page and f"]({CALIBRATION_FILE})" in page and "gate" not in page
    assert len(ET.fromstring(calibration(bins)).findall(".//{http://www.w3.org/2000/svg}circle")) == 2
    assert "not known" in card_page(card(step="kept", training={"metrics": {"pairs": 3.0}}))
