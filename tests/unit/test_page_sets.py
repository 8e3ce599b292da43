"""How the page words what a selection did."""

from importlib import import_module

import pytest

from api.ui.words import choice_reason, choice_step
from workers.selector import STEPS


@pytest.mark.parametrize("module", STEPS.values(), ids=lambda module: module.rpartition(".")[2])
def test_every_step_and_every_reason_of_its_own_has_words_in_chinese(module: str) -> None:
    assert choice_step("zh", module.rpartition(".")[2]).isascii() is False
    step = import_module(module)
    reasons = [said for name, said in vars(step).items() if name.isupper() and isinstance(said, str) and name[0] != "_"]
    assert [said for said in reasons if choice_reason("zh", said).isascii()] == []
