"""Every table and every kind of state has a version, which tells how the table is made."""

from typing import Any

import pytest
from sqlalchemy import Column, Index, Table, Text

from streams import versions
from streams.schema import projections
from streams.tables import LIVE


def test_a_higher_number_and_nothing_else_differs(monkeypatch: pytest.MonkeyPatch) -> None:
    before = versions.ours()
    assert versions.differing(before) == []
    monkeypatch.setitem(versions.STATES, "exchange", 99)
    monkeypatch.setitem(projections.tables[f"{LIVE}.replies"].info, "version", 99)
    assert versions.differing(before) == ["replies", "state exchange"]


def test_tables_that_tell_nothing_differ_in_everything() -> None:
    named = {str(table.name) for table in projections.sorted_tables} | {f"state {kind}" for kind in versions.STATES}
    assert versions.differing(None) == sorted(named)


@pytest.mark.parametrize("what", ["column", "type", "index"])
def test_a_table_that_is_made_in_another_way_differs(what: str) -> None:
    table = projections.tables[f"{LIVE}.replies"]
    copy: dict[str, Any] = {"column": Column("more", Text), "type": Column("finish_reason", Text, nullable=True)}
    other = Table("replies", type(projections)(), *(column._copy() for column in table.columns))
    same = versions._digest(other)
    if what == "index":
        Index("ix_more", other.c.person)
    else:
        other.append_column(copy[what], replace_existing=True)
    assert versions._digest(other) != same
