"""What stands on the way to the first answer on one machine, and what does not."""

from pathlib import Path

from deploy.local import addresses, process_table


def test_the_first_answer_waits_for_nothing_that_only_a_round_needs(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    table = {process.name: process for process in process_table(tmp_path, addresses(tmp_path, {}), {})}

    def needed(name: str) -> set[str]:
        return {name}.union(*(needed(before) for before in table[name].after))

    answering = ("streams", "relay", "engines", "swapper", "door", "page")
    assert not set().union(*map(needed, answering)) & {"opencompass", "answers"}
    assert table["opencompass"].beside and table["answers"].beside
