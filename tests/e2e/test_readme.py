"""What the README says to type is typed here, and both languages say the same."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from api.client import Door, Refused
from deploy.demo.domain import load_facts
from deploy.demo.story import DOMAIN
from streams.errors import Unavailable
from tests.e2e.conftest import ROOT, Command
from tests.local_noria import LocalNoria, until

ENGLISH, CHINESE = ((ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "README.zh.md"))
# They start and stop everything, which the demo's own test does.
ELSEWHERE = ("up", "demo", "down")


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def commands(text: str) -> list[list[str]]:
    """Every line to be typed, split as a shell would, without its comment."""
    lines = [line for block in blocks(text, "sh") for line in block.splitlines()]
    return [words for line in lines if (words := shlex.split(line, comments=True))]


def test_both_readmes_have_the_same_commands_headings_and_tables() -> None:
    def same_words(text: str) -> list[list[str]]:
        # A title is in the language of the page.
        return [[word for word in words if word.isascii() and " " not in word] for words in commands(text)]

    assert same_words(ENGLISH) == same_words(CHINESE)
    assert blocks(ENGLISH, "python") == blocks(CHINESE, "python")
    for mark in (r"^#+ ", r"^\| ", r"^- ", r"^\d\. "):
        counted = [len(re.findall(mark, text, re.MULTILINE)) for text in (ENGLISH, CHINESE)]
        assert counted[0] == counted[1], mark


def test_every_path_that_the_readme_names_is_there() -> None:
    for path in re.findall(r"\]\((?!http)([^)#]+)\)", ENGLISH + CHINESE):
        assert (ROOT / path).exists(), path
    for name in re.findall(r"^\| `([a-z]+/)` \|", ENGLISH, re.MULTILINE):
        assert (ROOT / name).is_dir(), name


def test_every_make_target_of_the_readme_is_one() -> None:
    for target in sorted(set(re.findall(r"make ([a-z]+)", ENGLISH))):
        done = subprocess.run(["make", "-n", target], cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr


def remembers(door: Door, domain: str) -> bool:
    try:
        door.would_recall(domain, "Must a fine be paid at once?")
    except (Refused, Unavailable):
        return False
    return True


def release_of(door: Door, domain: str) -> int:
    return next(release["release"] for release in door.releases(domain) if release["state"] == "live")


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_every_noria_command_of_the_readme_does_what_it_says(door: Door, command: Command, tmp_path: Path) -> None:
    fact = load_facts()[0].en
    exam = {"question": "How often is the pump checked?", "answer": "Every week.", "keys": ["week"]}
    (tmp_path / "exam.jsonl").write_text(json.dumps(exam) + "\n")
    (tmp_path / "examples.jsonl").write_text(json.dumps({"instruction": fact.question, "output": fact.answer}) + "\n")
    guide = [{"rule": "at_most_words", "value": 30}]
    (tmp_path / "policy.json").write_text(json.dumps({"thresholds": {"corrections": 50}, "style": guide}))
    typed = [words for words in commands(ENGLISH) if words[0] == "noria" and words[1] not in ELSEWHERE]
    assert len(typed) >= 10
    policy = door.policy(DOMAIN)
    door.set_policy(DOMAIN, policy | {"recall": {"of": "corrections"}})
    until(lambda: remembers(door, DOMAIN), "the domain's memory is held")
    for words in typed:
        if words[1] == "chat":
            until(lambda: any(model["id"] == "devices" for model in door.models()), "the engine of the new domain")
        done = command(*words[1:], cwd=tmp_path)
        assert done.returncode == 0, f"{' '.join(words)}: {done.stdout}{done.stderr}"
        if words[1:3] == ["release", "rollback"]:
            to = int(words[3])
            until(lambda to=to: release_of(door, DOMAIN) == to, f"release {to} answers")
    door.set_policy(DOMAIN, policy)


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_the_python_of_the_readme_runs_as_it_stands(noria: LocalNoria, door: Door, tmp_path: Path) -> None:
    (program,) = blocks(ENGLISH, "python")
    (tmp_path / ".noria").symlink_to(noria.home)
    program = program.replace("http://127.0.0.1:8400", noria.door_url)  # the port may be taken elsewhere
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, env=os.environ, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("road-traffic@")
