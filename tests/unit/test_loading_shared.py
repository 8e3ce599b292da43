"""A replay whose partitions are shared out among processes, seen from the one that shared them out."""

from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine

from streams.cluster import Cluster
from streams.errors import Unavailable
from streams.loading import _shared

PLACES = {("noria.domains", 0): 100, ("noria.domains", 1): 1}
# A process that is done at once, and one that goes on when the other's output is closed.
DONE_EARLY = """#!/bin/sh
read share
case "$share" in
  *'["noria.domains",1,1]'*) echo '{"ended":true}'; exec >&-; : > "$0.early";;
  *) while [ ! -e "$0.early" ]; do sleep 0.01; done; sleep 0.1; LATE;;
esac
"""


def share_out(folder: Path, monkeypatch: pytest.MonkeyPatch, late: str) -> int:
    program = folder / "program"
    program.write_text(DONE_EARLY.replace("LATE", late))
    program.chmod(0o700)
    monkeypatch.setattr("sys.executable", str(program))
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    told: list[Any] = []
    return _shared(
        create_engine("postgresql+psycopg2://nobody"), Cluster(servers="nowhere:1"), PLACES, "shadow", told.append
    )


def test_a_process_that_has_done_its_share_may_end_long_before_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert share_out(tmp_path, monkeypatch, """echo '{"done":100}'; echo '{"ended":true}'""") == 100


def test_a_process_that_ends_before_it_is_done_fails_the_replay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(Unavailable, match="a process ended"):
        share_out(tmp_path, monkeypatch, """echo '{"done":50}'""")
