"""The map of a training set: what means the same lies together, each time alike, and the picture says what became of each."""

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image

from api.maps import DROPPED, KEPT, draw_html, draw_png, draw_svg, in_words, legend
from workers.asked import ask
from workers.selector.mapped import Laid, Layout, places

CLUSTERS, EACH = 3, 12


def vectors() -> np.ndarray[Any, np.dtype[np.float32]]:
    """Some that say one of three things each, with the first of them a second time at the end."""
    chance = np.random.default_rng(7)
    middles = np.repeat(chance.normal(size=(CLUSTERS, 64)), EACH, axis=0)
    found = middles + 0.2 * chance.normal(size=middles.shape)
    found = np.concatenate([found, found[:1]]).astype(np.float32)
    return found / np.linalg.norm(found, axis=1, keepdims=True)


def test_what_means_the_same_lies_together_and_each_time_in_the_same_place() -> None:
    found = places(vectors())
    assert np.array_equal(found, places(vectors()))
    assert found.min() >= 0 and found.max() <= 1 and np.ptp(found, axis=0).max() == pytest.approx(1, abs=1e-3)
    of = np.repeat(np.arange(CLUSTERS), EACH)
    away = np.linalg.norm(found[:-1, None] - found[None, :-1], axis=2)
    nearest = np.where(np.eye(len(of), dtype=bool), np.inf, away).argmin(axis=1)
    assert (of[nearest] == of).all()
    assert np.linalg.norm(found[0] - found[-1]) < np.median(away)


def test_a_task_that_is_larger_than_a_pipe_comes_to_the_child_that_lays_it_out() -> None:
    given = np.tile(vectors(), (1, 16)) / 4
    assert given.nbytes > 2 * 65_536
    laid = ask("workers.selector.mapped", Layout(given.tobytes(), given.shape[1]), Laid, lambda: None)
    assert len(laid.places) == len(given)


@pytest.mark.parametrize("n", [1, 2, 4, 5, 6])
def test_few_have_a_place_too_and_so_have_rows_that_are_all_equal(n: int) -> None:
    for given in (vectors()[:n], np.repeat(vectors()[:1], n, axis=0)):
        found = places(given)
        assert found.shape == (n, 2) and np.isfinite(found).all() and found.min() >= 0 and found.max() <= 1


def point(id: str, step: str = "", **more: Any) -> dict[str, Any]:
    about = {
        "id": id,
        "kept": not step,
        "step": step,
        "reason": step and "said twice",
        "number": None,
        "neighbour": None,
    }
    return about | {"x": 0.5, "y": 0.5, "new": False, "question": f"<b>{id}?</b>", "answer": "Yes."} | more


FOUND = {
    "domain": "roads",
    "number": 2,
    "left_out": 3,
    "points": [
        point("new", new=True, x=1.0, y=1.0),
        point("old", x=0.0),
        point("near", "dedupe", number=0.97, x=0.0, y=0.0),
        point("nearer", "dedupe"),
        point("asked", "leakage"),
    ],
}


def test_the_legend_counts_what_each_step_kept_back() -> None:
    assert legend(FOUND) == [("", KEPT, 2), ("dedupe", DROPPED[0], 2), ("leakage", DROPPED[1], 1)]


def test_each_dot_says_its_words_and_what_became_of_it_and_no_words_become_markup() -> None:
    drawn = draw_svg(FOUND, in_words)
    assert drawn.count("<circle") == 5 and drawn.count("stroke-width") == 1 and "<b>" not in drawn
    assert "&lt;b&gt;near?&lt;/b&gt;\nYes.\ndedupe: said twice (0.97)" in drawn
    assert drawn.index('data-id="near"') < drawn.index('data-id="old"') < drawn.index('data-id="new"'), "new above all"
    page = draw_html(FOUND)
    assert drawn in page and "kept back by dedupe: 2" in page and "3 more are not on it" in page and "<b>" not in page


def test_the_picture_has_a_dot_of_its_colour_at_each_place_and_no_words() -> None:
    picture = Image.open(io.BytesIO(draw_png(FOUND))).convert("RGB")
    assert picture.size == (1280, 1280 + 2 * 26 * 4)
    at = {"new": (1248, 32), "near": (32, 1248)}
    assert "#{:02x}{:02x}{:02x}".format(*picture.getpixel(at["new"])) == KEPT
    assert "#{:02x}{:02x}{:02x}".format(*picture.getpixel(at["near"])) == DROPPED[0]
