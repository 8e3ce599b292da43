"""The journal of destroyed keys: whatever happens to whoever writes it, what it held it holds."""

from pathlib import Path

import pytest

from streams.erasures import Journal
from streams.errors import Invalid, Unavailable


def test_a_journal_holds_each_key_once_and_is_for_its_owner_only(tmp_path: Path) -> None:
    path = tmp_path / "keys" / "erasures.jsonl"
    journal = Journal(path)
    assert journal.kids() == set()
    journal.add(["one", "two"])
    journal.add(["two", "three"])
    journal.add([])
    assert Journal(path).kids() == {"one", "two", "three"}
    assert len(path.read_text().splitlines()) == 3
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_journal_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    (tmp_path / "keys").touch()
    with pytest.raises(Unavailable, match="the erasure journal cannot be written"):
        Journal(tmp_path / "keys" / "erasures.jsonl").add(["one"])


@pytest.mark.parametrize("torn", range(1, 12))
def test_a_line_that_was_broken_off_loses_none_of_the_others(tmp_path: Path, torn: int) -> None:
    path = tmp_path / "erasures.jsonl"
    Journal(path).add(["one", "two"])
    path.write_bytes(path.read_bytes()[: -4 * torn + 3])
    kept = Journal(path).kids()
    assert "one" in kept
    Journal(path).add(["one", "two", "three"])
    assert Journal(path).kids() == {"one", "two", "three"}


def test_a_line_that_is_whole_and_no_line_of_a_journal_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "erasures.jsonl"
    Journal(path).add(["one"])
    path.write_text(path.read_text() + '{"kid": 3}\n')
    with pytest.raises(Invalid, match="line 2 of the erasure journal"):
        Journal(path).kids()
