"""What it takes to add a step to a selection: a kind of step, a file, a row. Done to a copy of the code, which selects by it."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import streams
from tests.unit.test_eighth_method import change

HOUSE = Path(streams.__file__).parents[1]
STEP = '''"""The step `alphabet`: what begins late in the alphabet waits. There for a test."""

from workers.selector.candidates import Decision


def judge(step, candidates, instruments):
    return [
        Decision(one.example_id, one.question[:1] <= step.last, "" if one.question[:1] <= step.last else "too late")
        for one in candidates
    ]
'''
RUN = """
import json, msgspec
from datetime import UTC, datetime
from streams.policy import Policy, check_policy
from workers.selector.candidates import OpenExample
from workers.selector.pipeline import choose

class Measures:
    exam, mask = {}, ()
    tokens = staticmethod(lambda one: 1)

steps = [{"step": "leakage"}, {"step": "agreement"}, {"step": "length"}, {"step": "alphabet", "last": "M"}]
now = datetime.now(UTC)
policy = msgspec.convert({"selection": steps}, Policy)
check_policy(policy, now)
asked = [
    OpenExample(example_id=q, person="ana", question=q, context="", answer="Yes.", said_at=now, learned=False)
    for q in ("Apples?", "Zinnias?")
]
print(json.dumps(msgspec.to_builtins(list(choose(policy.selection, asked, Measures()).lines.values()))))
"""


def test_a_ninth_step_is_a_kind_of_step_a_file_and_a_row(tmp_path: Path) -> None:
    for part in ("streams", "workers"):
        shutil.copytree(HOUSE / part, tmp_path / part, ignore=shutil.ignore_patterns("__pycache__"))
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}

    change(
        tmp_path / "streams" / "selection.py",
        "SelectionStep = Leakage",
        'class Alphabet(_Step, frozen=True, kw_only=True, tag="alphabet"):\n'
        "    stage: ClassVar[int] = 3\n\n    last: str\n\n\nSelectionStep = Alphabet | Leakage",
    )
    (tmp_path / "workers" / "selector" / "alphabet.py").write_text(STEP)
    table = tmp_path / "workers" / "selector" / "__init__.py"
    change(table, "    Leakage: ", '    Alphabet: "workers.selector.alphabet",\n    Leakage: ')
    change(table, "import Agreement,", "import Agreement, Alphabet,")
    after = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert sum(before.get(path) != content for path, content in after.items()) == 3

    run = subprocess.run(
        [sys.executable, "-c", RUN],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        capture_output=True,
    )
    assert run.returncode == 0, run.stderr[-2000:]
    kept, dropped = json.loads(run.stdout)
    assert kept == {"id": "Apples?", "kind": "example", "kept": True}
    assert dropped == {
        "id": "Zinnias?",
        "kind": "example",
        "kept": False,
        "step": "alphabet",
        "reason": "too late",
    }
