"""The demo as its users run it, told to its end: two rounds of 48 facts, then how things stand. And many kills. `make story`"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from deploy.supervisor import down
from tests.conftest import ROOT
from tests.faults.crowd import Acknowledged
from tests.faults.test_kills import Size, survive
from tests.local_noria import end_with, running

pytestmark = pytest.mark.timeout(3600)
FACTS = 48


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Empty at first: what a newcomer waits for is made too."""
    home = tmp_path_factory.mktemp("story") / "noria"
    home.mkdir()
    yield home
    down(home)


def tell(home: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "api.cli", "demo", "--once"],
        cwd=ROOT,
        env=os.environ | {"NORIA_HOME": str(home)},
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=end_with(os.getpid()),
    )


def report_of(home: Path) -> dict[str, Any]:
    done = tell(home)
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
    report: dict[str, Any] = json.loads((home / "demo-report.json").read_text())
    print(json.dumps(report))
    return report


def check(report: dict[str, Any]) -> None:
    assert report["corrections"] == FACTS
    assert report["people"] == 6
    assert report["gate_verdict"] == "ship"
    assert report["gate_p_value"] < 0.0001
    assert report["fixes_after"] >= 0.9 > report["fixes_before"]
    assert report["events"] > 500
    assert report["requests_during_swaps"] >= 100
    assert (report["failed_requests"], report["mixed_answers"]) == (0, 0)
    assert report["replay_equal"] is True


def test_the_first_round_ships_a_release_that_has_learned_and_forgotten_little(home: Path) -> None:
    check(report_of(home))


def test_the_second_round_learns_the_next_facts_and_keeps_the_first(home: Path) -> None:
    report = report_of(home)
    check(report)
    assert report["earlier_n"] == FACTS and report["earlier_after"] >= 0.9


def test_the_third_time_says_how_things_stand(home: Path) -> None:
    done = tell(home)
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
    assert "The story has been told" in done.stdout
    assert done.stdout.count("released") == 2


def test_after_32_kills_of_all_kinds_of_process_2000_events_have_had_their_effect_once(tmp_path: Path) -> None:
    with running(tmp_path / "noria") as noria:
        survive(noria, Acknowledged(), Size(chats=11, exam_requests=3, kills=32))
