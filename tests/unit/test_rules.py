"""The rules of the house hold because tools enforce them: an event that nobody handles fails the type checker where it is
not handled, and a core that reaches for the outside fails the import rules."""

import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

HOUSE = Path(__file__).parents[2]
PACKAGES = ("streams", "workers", "api", "deploy", "migrations")
NIGHT = '''class NightFell(Struct, frozen=True, kw_only=True):
    """It grew dark over the allotments."""

    domain: str
    conversation_id: str


'''

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the packages and of the rules for them, as they are."""
    copy = tmp_path_factory.mktemp("house")
    for package in PACKAGES:
        shutil.copytree(HOUSE / package, copy / package, ignore=shutil.ignore_patterns("__pycache__", "*.jsonl"))
    shutil.copy(HOUSE / "pyproject.toml", copy)
    return copy


@pytest.fixture
def streams(house: Path, tmp_path: Path) -> Path:
    """A copy of the log's package alone, to be changed; what the type checker knows of the original is at hand."""
    shutil.copytree(house / "streams", tmp_path / "streams")
    shutil.copy(house / "pyproject.toml", tmp_path)
    return tmp_path / "streams"


def replaced(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert text.count(old) == 1, f"{old!r} stands {text.count(old)} times in {path.name}"
    path.write_text(text.replace(old, new))


def run(program: str, arguments: Sequence[str], where: Path) -> tuple[int, str]:
    done = subprocess.run(
        [Path(sys.executable).parent / program, *arguments], cwd=where, capture_output=True, text=True
    )
    return done.returncode, done.stdout + done.stderr


def types(streams: Path, cache: Path) -> tuple[int, str]:
    checked = ["streams/rounds.py", "streams/projections.py"]
    return run("mypy", ["--no-error-summary", "--cache-dir", str(cache), *checked], streams.parent)


def imports(where: Path) -> tuple[int, str]:
    return run("lint-imports", ["--no-cache"], where)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("types")


def test_the_core_as_it_is_passes_the_type_checker(streams: Path, cache: Path) -> None:
    code, said = types(streams, cache)
    assert code == 0, said


def unhandled(said: str) -> list[str]:
    """The modules in which NightFell is not handled, once for each place."""
    return sorted(
        line.partition(":")[0]
        for line in said.splitlines()
        if '"assert_never" has incompatible type "NightFell"' in line
    )


def test_a_domain_event_that_nobody_handles_fails_the_type_checker_in_its_room_and_nowhere_else(
    streams: Path, cache: Path
) -> None:
    room = streams / "facts" / "examples.py"
    replaced(room, "ExampleEvent = ExampleAccepted", NIGHT + "ExampleEvent = NightFell | ExampleAccepted")
    code, said = types(streams, cache)
    assert code == 1 and unhandled(said) == 2 * ["streams/facts/examples.py"], "what it changes, and its rows"


def test_a_conversation_event_that_nobody_handles_fails_the_type_checker_in_its_room_and_nowhere_else(
    streams: Path, cache: Path
) -> None:
    room = streams / "facts" / "conversations.py"
    replaced(room, "ConversationEvent = (", NIGHT + "ConversationEvent = NightFell | (")
    code, said = types(streams, cache)
    assert code == 1 and unhandled(said) == 3 * ["streams/facts/conversations.py"], "folded, reacted to, and its rows"


def test_a_room_that_nobody_handles_fails_the_type_checker_where_the_rooms_meet(streams: Path, cache: Path) -> None:
    night = f"from msgspec import Struct\n\n\n{NIGHT}"
    replaced(streams / "events.py", "\nDomainEvent = ", f"\n{night}DomainEvent = NightFell | ")
    code, said = types(streams, cache)
    assert code == 1 and unhandled(said) == ["streams/projections.py", "streams/rounds.py"], said


def test_a_step_of_a_round_without_an_order_fails_the_type_checker(streams: Path, cache: Path) -> None:
    replaced(streams / "plan.py", 'RoundStep = Literal["select", ', 'RoundStep = Literal["ponder", "select", ')
    code, said = types(streams, cache)
    assert code == 1 and "streams/rounds.py" in said and "assert_never" in said and "ponder" in said


def test_the_house_as_it_is_keeps_its_import_rules(house: Path) -> None:
    code, said = imports(house)
    assert code == 0 and "3 kept, 0 broken" in said, said


FORBIDDEN = [
    ("streams/rounds.py", "import faust", "streams.rounds -> faust"),
    ("streams/gate.py", "import torch", "streams.gate -> torch"),
    ("streams/policy.py", "import sqlalchemy.orm", "streams.policy -> sqlalchemy"),
    ("streams/facts/exam.py", "from streams.log import Message", "streams.facts.exam -> streams.log"),
    ("streams/log.py", "import api.app", "streams.log -> api.app"),
    ("streams/artifacts.py", "import api.client", "streams.artifacts -> api.client"),
    ("api/wire.py", "import workers.loop", "api.wire -> workers.loop"),
]


@pytest.fixture(scope="module")
def said_of_forbidden(house: Path) -> str:
    """What the import rules say, asked once, when every module of FORBIDDEN reaches for what it may not."""
    before = {module: (house / module).read_text() for module, _, _ in FORBIDDEN}
    for module, reach, _ in FORBIDDEN:
        (house / module).write_text(f"{before[module]}\n\n{reach}\n")
    try:
        code, said = imports(house)
    finally:
        for module, text in before.items():
            (house / module).write_text(text)
    assert code == 1 and "0 kept, 3 broken" in said, said
    return " ".join(said.split())


@pytest.mark.parametrize("words", [words for _, _, words in FORBIDDEN])
def test_an_import_that_the_house_forbids_fails_the_import_rules_naming_the_module(
    said_of_forbidden: str, words: str
) -> None:
    assert words in said_of_forbidden
