"""How hard a model finds an answer: as transformers itself says it, behind the question and by itself."""

from math import exp
from pathlib import Path

import pytest
import torch

from tests.unit import trainer_tiny as tiny
from workers.models.loaded import load_model
from workers.selector.golden import limit_of
from workers.selector.perplexity import Task, work
from workers.trainer.loaded import load_tokenizer
from workers.trainer.rows import encode_rows
from workers.trainer.spec import TrainingRow


def test_losses_are_those_of_one_forward_a_row_and_of_what_cannot_be_read_none(tmp_path: Path) -> None:
    folder = tiny.make_model(tmp_path / "tiny")
    rows = [TrainingRow(prompt=question, answer=answer) for question, answer in tiny.FACTS[:5]]
    rows.insert(2, TrainingRow(prompt="Recite it. " * 900, answer="Stop."))
    rows[1] = TrainingRow(prompt=rows[1].prompt, answer=rows[1].answer, system="You are brief.", history=(("a", "b"),))
    found = work(Task(str(folder), tuple(rows))).losses
    model = load_model(folder)

    def loss(ids: tuple[int, ...], answer_at: int) -> float:
        """As transformers counts it."""
        labels = torch.tensor([ids])
        labels[:, :answer_at] = -100
        with torch.inference_mode():
            return float(model(torch.tensor([ids]), labels=labels).loss)

    expected = [
        (loss(row.ids, row.answer_at), loss((row.ids[0], *row.ids[row.answer_at :]), 1))
        for row in encode_rows(load_tokenizer(folder), rows, limit_of(folder))
    ]
    assert [one for place, one in enumerate(found) if place != 2] == [pytest.approx(one, abs=2e-5) for one in expected]
    assert found[2] == (0, 0) and len({round(exp(one[0]), 3) for one in found}) == 6
