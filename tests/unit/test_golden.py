"""How much a shot helps: as the plain way says it, one forward a pair, in whichever way a family is run."""

from pathlib import Path

import pytest

from tests.plain_golden import official_gains, plain_gains
from tests.unit import trainer_tiny as tiny
from workers.selector import golden
from workers.selector.golden import Task, Turn, work
from workers.trainer.loaded import load_tokenizer
from workers.trainer.packed import PackedModel

TURNS = tuple(Turn(question, answer) for question, answer in tiny.FACTS[:6])


def test_gains_are_those_of_one_forward_a_pair(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tiny.make_model(tmp_path / "tiny")
    monkeypatch.setattr(golden, "PACK_TOKENS", 200)
    found = work(Task(str(folder), TURNS[:2], TURNS[2:]), screened=False).gains
    expected = plain_gains(folder, TURNS[:2], TURNS[2:])
    assert [list(row) for row in found] == [pytest.approx(row, abs=2e-5) for row in expected]
    assert min(abs(gain) for row in found for gain in row) > 1e-4
    official = official_gains(folder, TURNS[:2], TURNS[2:])
    assert official == [pytest.approx(row, abs=2e-5) for row in expected], "the bench's other measure"


def test_a_gain_that_rounding_may_have_carried_over_0_is_computed_in_fp32(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = Task(str(tiny.make_model(tmp_path / "tiny")), TURNS[:2], TURNS[2:])
    exact = [gain for row in work(task, screened=False).gains for gain in row]
    rough = [gain for row in _with(task, monkeypatch, unsure=0.0) for gain in row]
    middle = sorted(map(abs, exact))[len(exact) // 2]
    mixed = [gain for row in _with(task, monkeypatch, unsure=middle) for gain in row]
    assert max(abs(one - other) for one, other in zip(exact, rough, strict=True)) > 1e-5, "bf16 rounds"
    assert mixed == [
        pytest.approx(known if abs(gain) < middle else gain, abs=1e-6) for known, gain in zip(exact, rough, strict=True)
    ]


def _with(task: Task, monkeypatch: pytest.MonkeyPatch, unsure: float) -> tuple[tuple[float, ...], ...]:
    monkeypatch.setattr(golden, "UNSURE", unsure)
    return work(task, screened=True).gains


def test_a_shot_that_the_model_cannot_read_with_a_task_gains_nothing_and_rounding_is_no_gain(tmp_path: Path) -> None:
    folder = tiny.make_model(tmp_path / "tiny")
    tokenizer, limit = load_tokenizer(folder), golden.limit_of(folder)
    tasks = (TURNS[0], Turn("Recite what follows. " * 4, "It is so."), TURNS[1])

    def read(words: int) -> list[bool]:
        shot = Turn("Recite it.", "Stop. " * words)
        with_it, alone = (golden._encoded(tokenizer, tasks, one, limit) for one in (shot, None))
        return [len(row.ids) > len(bare.ids) for row, bare in zip(with_it, alone, strict=True) if row and bare]

    words = next(words for words in range(1, limit) if read(words) == [True, False, True])
    ((some, none, other),) = work(
        Task(str(folder), (Turn("Recite it.", "Stop. " * words),), tasks), screened=False
    ).gains
    assert none == 0 and some != 0 and other != 0


def test_a_family_that_packs_do_not_carry_is_run_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tiny.make_model(tmp_path / "tiny")
    packed = work(Task(str(folder), TURNS[:1], TURNS[1:3]), screened=False).gains
    monkeypatch.setattr(PackedModel, "use_packs", _refuse)
    assert work(Task(str(folder), TURNS[:1], TURNS[1:3]), screened=False).gains[0] == pytest.approx(packed[0], abs=2e-5)


def _refuse(model: PackedModel) -> None:
    from workers.trainer.loaded import NotPacked

    raise NotPacked("of no family that packs carry")
