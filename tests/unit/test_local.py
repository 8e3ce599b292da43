"""What stands on the way to the first answer on one machine, and what does not."""

from pathlib import Path

import pytest

from deploy.local import addresses, process_table
from deploy.supervisor import Process


@pytest.fixture
def table(tmp_path: Path) -> dict[str, Process]:
    (tmp_path / "run").mkdir()
    return {process.name: process for process in process_table(tmp_path, addresses(tmp_path, {}), {})}


def needed(table: dict[str, Process], name: str) -> set[str]:
    return {name}.union(*(needed(table, before) for before in table[name].after))


def test_the_first_answer_waits_for_nothing_that_only_a_round_needs(table: dict[str, Process]) -> None:
    answering = ("streams", "relay", "engines", "swapper", "door", "page")
    assert not set().union(*(needed(table, name) for name in answering)) & {"opencompass", "answers"}
    assert table["opencompass"].beside and table["answers"].beside


def test_nothing_that_opens_words_starts_before_what_was_erased_is_destroyed(table: dict[str, Process]) -> None:
    serving = {name for name, process in table.items() if not process.once} - {"kafka", "postgres"}
    assert {"door", "page", "streams", "worker", "swapper"} <= serving
    assert all("erased" in needed(table, name) for name in serving)
