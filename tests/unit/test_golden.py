"""How much a shot helps: as the plain way says it, one forward a pair, in whichever way a family is run."""

from pathlib import Path

import pytest

from tests.plain_golden import plain_gains
from tests.unit import trainer_tiny as tiny
from workers.selector import golden
from workers.selector.golden import Task, Turn, work
from workers.trainer.loaded import load_tokenizer
from workers.trainer.packed import PackedModel

TURNS = tuple(Turn(question, answer) for question, answer in tiny.FACTS[:6])


def test_gains_are_those_of_one_forward_a_pair(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tiny.make_model(tmp_path / "tiny")
    monkeypatch.setattr(golden, "PACK_TOKENS", 200)
    found = work(Task(str(folder), TURNS[:2], TURNS[2:])).gains
    expected = plain_gains(folder, TURNS[:2], TURNS[2:])
    assert [list(row) for row in found] == [pytest.approx(row, abs=2e-5) for row in expected]
    assert min(abs(gain) for row in found for gain in row) > 1e-4


def test_a_shot_that_the_model_cannot_read_with_a_task_gains_nothing_and_rounding_is_no_gain(tmp_path: Path) -> None:
    folder = tiny.make_model(tmp_path / "tiny")
    tokenizer, limit = load_tokenizer(folder), golden.limit_of(folder)
    tasks = (TURNS[0], Turn("Recite what follows. " * 4, "It is so."), TURNS[1])

    def read(words: int) -> list[bool]:
        shot = Turn("Recite it.", "Stop. " * words)
        with_it, alone = (golden._encoded(tokenizer, tasks, one, limit) for one in (shot, None))
        return [len(row.ids) > len(bare.ids) for row, bare in zip(with_it, alone, strict=True) if row and bare]

    words = next(words for words in range(1, limit) if read(words) == [True, False, True])
    ((some, none, other),) = work(Task(str(folder), (Turn("Recite it.", "Stop. " * words),), tasks)).gains
    assert none == 0 and some != 0 and other != 0


def test_a_family_that_packs_do_not_carry_is_run_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tiny.make_model(tmp_path / "tiny")
    packed = work(Task(str(folder), TURNS[:1], TURNS[1:3])).gains
    monkeypatch.setattr(PackedModel, "use_packs", _refuse)
    assert work(Task(str(folder), TURNS[:1], TURNS[1:3])).gains[0] == pytest.approx(packed[0], abs=2e-5)


def _refuse(model: PackedModel) -> None:
    from workers.trainer.loaded import NotPacked

    raise NotPacked("of no family that packs carry")
