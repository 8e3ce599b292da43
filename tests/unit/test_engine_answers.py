"""What the transformers engine makes of scores and tokens: what is drawn, and what of it is shown."""

import pytest
import torch

from workers.engines.drawing import Asked, Drawer
from workers.engines.texts import Text

SCORES = torch.tensor([0.0, 3.0, 2.0, 1.0])
WORDS = {0: b"a ", 1: b"red", 2: b" sto", 3: b"p here", 4: "车".encode()[:2], 5: "车".encode()[2:], 6: b""}


def drawn(prompt: list[int] | None = None, count: int = 1, **asked: object) -> list[int]:
    drawer = Drawer(Asked(messages=[], **asked), prompt or [], len(SCORES))  # type: ignore[arg-type]
    return [drawer.draw(SCORES) for _ in range(count)]


def shown(tokens: list[int], *stops: str) -> tuple[list[str], Text]:
    text = Text(lambda ids: b"".join(WORDS[n] for n in ids).decode(errors="replace"), WORDS.__getitem__, stops)
    pieces = []
    for token in tokens:
        pieces.append(text.add(token, None)[0])
        if text.stopped:
            return pieces, text
    return [*pieces, text.rest()[0]], text


def test_without_a_temperature_the_likeliest_token_is_drawn_whatever_the_seed() -> None:
    assert {drawn(temperature=0, seed=seed)[0] for seed in range(5)} == {1}


def test_the_seed_decides_what_is_drawn() -> None:
    first = drawn(count=40, seed=1)
    assert first == drawn(count=40, seed=1) != drawn(count=40, seed=2)
    assert set(first) == {0, 1, 2, 3}


@pytest.mark.parametrize("narrow", [{"top_k": 1}, {"min_p": 1.0}, {"top_p": 1e-6}])
def test_what_is_narrowed_to_the_likeliest_draws_that_alone(narrow: dict[str, float]) -> None:
    assert set(drawn(count=40, temperature=5.0, seed=1, **narrow)) == {1}


def test_the_temperature_comes_after_what_narrows() -> None:
    """Of the plain probabilities 0.64, 0.24, 0.09 and 0.03 the first two make up 0.8; at a temperature of 5 all four would."""
    assert set(drawn(count=200, temperature=5.0, seed=1, top_p=0.8)) == {1, 2}


def test_a_bias_bans_and_a_token_beyond_the_vocabulary_is_passed_over() -> None:
    assert drawn(temperature=0, logit_bias={1: -100.0, 99: 5.0}) == [2]


@pytest.mark.parametrize(
    "penalty", [{"frequency_penalty": 1.5}, {"presence_penalty": 1.5}, {"repetition_penalty": 2.0}]
)
def test_what_the_prompt_or_the_answer_has_said_is_drawn_less(penalty: dict[str, float]) -> None:
    assert drawn(prompt=[1], temperature=0, **penalty) == [2]
    assert drawn(count=2, temperature=0, **penalty) == [1, 2]


def test_a_character_is_shown_when_it_is_whole() -> None:
    assert shown([1, 4, 5, 0])[0] == ["red", "", "车", "a ", ""]


def test_a_stop_string_over_several_tokens_is_never_begun() -> None:
    pieces, text = shown([1, 2, 3, 0], " stop")
    assert pieces == ["red", "", ""] and text.stopped


def test_what_only_looked_like_the_beginning_of_a_stop_string_is_shown_after_all() -> None:
    assert shown([1, 2, 1], " stop")[0] == ["red", "", " stored", ""]
    assert shown([1, 2], " stop")[0] == ["red", "", " sto"]


def test_what_is_told_of_tokens_comes_with_their_text_and_makes_it_up() -> None:
    text = Text(lambda ids: b"".join(WORDS[n] for n in ids).decode(errors="replace"), WORDS.__getitem__, [" stop"])
    came = [text.add(token, {"id": token}) for token in (1, 2, 1, 4, 5)]
    assert [[one["id"] for one in told] for _, told in came] == [[1], [], [2, 1], [], [5]]
    for piece, told in came:
        assert "".join(one["token"] for one in told) == piece
