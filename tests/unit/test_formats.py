"""Examples in the field's formats: read whatever they came from, streamed, and written so that the field's tools read them."""

import json
import os
import threading
import tracemalloc
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest
from datasets import Dataset, DatasetDict, load_dataset, load_from_disk

from api.formats.checking import Brought, examples
from api.formats.sources import MOST_CHARACTERS
from api.formats.writing import FORMS, Card, digest_of, write, write_for_oneself
from api.items import Example
from streams.errors import Invalid

GREETED = (("", "Hello."), ("你好", "您好。"), ("And?", ""))
ITEMS = [
    Example(instruction="How fast?", output='30 km/h.\n\nNo more, "ever".'),
    Example(instruction="多快？", output="三十公里；不能再快。", system="You answer.", history=GREETED),
]
CARD = Card("roads", "Roads", ["en", "zh"], "CC-BY-4.0", datetime(2026, 1, 2, tzinfo=UTC), retired=1, erased=2)


def read(path: Path, **how: Any) -> tuple[list[Example], list[str], Brought[Example]]:
    """The good ones, and what is said of the others."""
    found = examples(path, **how)
    taken = list(found.items())
    told = [f"{one.place}: {one.fault or one.left_out}" for one in taken if one.item is None]
    return [one.item for one in taken if one.item is not None], told, found


def given(items: Sequence[Example]) -> list[dict[str, Any]]:
    """As the door gives them."""
    return [msgspec.to_builtins(item) | {"kind": "correction", "example_id": f"e{n}"} for n, item in enumerate(items)]


@pytest.mark.parametrize(
    ("format", "name", "kind"),
    [
        ("alpaca", "out.json", "alpaca, a JSON list in UTF-8"),
        ("sharegpt", "out.json", "sharegpt, a JSON list in UTF-8"),
        ("openai", "out.jsonl", "openai, JSON lines in UTF-8"),
        ("csv", "out.csv", "alpaca, CSV in UTF-8"),
        ("datasets", "out.parquet", "alpaca, Parquet"),
        ("datasets", "out", "alpaca, a folder that datasets saved"),
    ],
)
def test_what_is_written_in_a_format_is_read_as_what_it_was_and_datasets_loads_it(
    tmp_path: Path, format: str, name: str, kind: str
) -> None:
    out = tmp_path / name
    write(out, given(ITEMS), format, CARD)
    items, told, found = read(out)
    assert items == ITEMS and not told
    assert found.formats == (f"{name}: {kind}",)
    written = list(out.iterdir()) if out.is_dir() else [out, tmp_path / f"{name}.md"]
    assert all(path.stat().st_mode & 0o077 == 0 for path in written)
    if out.is_dir():
        loaded = load_from_disk(str(out))
    else:
        loader = {".csv": "csv", ".parquet": "parquet"}.get(out.suffix, "json")
        loaded = load_dataset(loader, data_files=str(out), split="train", cache_dir=str(tmp_path / "cache"))
    assert len(loaded) == 2
    if FORMS[format].about:
        assert loaded["licence"] == ["CC-BY-4.0"] * 2 and loaded["digest"] == [digest_of(item) for item in ITEMS]
        assert loaded["source"][1] == "noria:roads/correction/e1"


def test_the_card_says_what_the_file_holds_and_none_of_its_words(tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    called = Example(instruction="Whom do I call?", output="13800138000")
    write(out, given([*ITEMS, called]), "sharegpt", CARD)
    card = (tmp_path / "out.json.md").read_text()
    for words in ('license: "cc-by-4.0"', "| examples | 3 |", "1 retired, 2 erased", "phone (1)", '"sharegpt"'):
        assert words in card
    assert "30 km" not in card and "13800138000" not in card


def test_a_file_is_written_whole_or_stays_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out.json"
    out.write_text("before")

    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError):
        write_for_oneself(out, b"after")
    assert out.read_text() == "before" and [path.name for path in tmp_path.iterdir()] == ["out.json"]


def test_a_folder_that_holds_something_is_not_written_over(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").touch()
    with pytest.raises(Invalid, match="is there already"):
        write(tmp_path, given(ITEMS), "datasets", CARD)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "gb18030"])
@pytest.mark.parametrize("form", ["list", "lines", "csv"])
def test_every_encoding_and_line_end_of_the_field_is_read(tmp_path: Path, encoding: str, form: str) -> None:
    rows = [
        {"instruction": f"第{n}条是什么？", "output": "这是关于道路交通安全的规定，应当按照法律执行。"} for n in (1, 2)
    ]
    path = tmp_path / ("in.csv" if form == "csv" else "in.json")
    if form == "csv":
        text = "\r\n".join(["instruction,output", *(",".join(row.values()) for row in rows)])
    else:
        words = [json.dumps(row, ensure_ascii=False) for row in rows]
        text = f"[\r\n{', '.join(words)}\r\n]" if form == "list" else "\r\n".join(words)
    path.write_bytes(text.encode(encoding))
    items, told, found = read(path)
    assert [item.instruction for item in items] == ["第1条是什么？", "第2条是什么？"] and not told
    assert ("GB18030" in found.formats[0]) is (encoding == "gb18030")


@pytest.mark.parametrize(
    ("row", "fault"),
    [
        ({"conversations": [{"from": "human", "value": "a"}]}, "conversations: its last turn must be the assistant's"),
        ({"conversations": [{"from": "gpt", "value": "a"}]}, "conversations: the turn before its last must be the person's"),
        ({"conversations": [{"from": "tool", "value": "a"}]}, "conversations[0].from: what it says is neither"),
        ({"conversations": [{"from": "human", "value": 3}]}, "conversations[0]: it must say `from` and `value`"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages[0].content[0]: it is no text"),
        ({"messages": [{"role": "tool", "content": "a"}]}, "messages[0].role: it must be one of"),
        ({"messages": [{"role": "user", "content": "a"}], "tools": [{}]}, "tools: it is no text"),
        ({"messages": [{"role": "assistant", "content": None, "tool_calls": [{}]}]}, "messages[0].tool_calls: it is no"),
        ({"messages": [{"role": "user", "content": " "}]}, "messages[0]: it says nothing"),
    ],
)  # fmt: skip
def test_what_is_no_conversation_of_texts_is_refused_by_its_name(
    tmp_path: Path, row: dict[str, Any], fault: str
) -> None:
    path = tmp_path / "in.jsonl"
    path.write_text(json.dumps(row))
    items, told, _ = read(path)
    assert not items and told[0].startswith(f"item 1: {fault}")


@pytest.mark.parametrize(
    "row",
    [
        {"conversations": [{"from": "user", "value": "a"}, {"from": "assistant", "value": "b"}], "system": "s"},
        {"messages": [{"from": "system", "value": "s"}, {"from": "Human", "value": "a"}, {"from": "bing", "value": "b"}]},
        {
            "messages": [
                {"role": "developer", "content": "s"},
                {"role": "user", "content": [{"type": "text", "text": "a"}]},
                {"role": "assistant", "content": "b", "tool_calls": None},
            ],
            "tools": [],
        },
    ],
)  # fmt: skip
def test_the_ways_in_which_speakers_are_named_come_to_the_same(tmp_path: Path, row: dict[str, Any]) -> None:
    path = tmp_path / "in.jsonl"
    path.write_text(json.dumps(row))
    assert read(path)[0] == [Example(instruction="a", output="b", system="s")]


def test_columns_of_other_names_are_mapped(tmp_path: Path) -> None:
    path = tmp_path / "in.csv"
    path.write_text("question;answer;n\nHow fast?;30;1\nWhy?;2\n")
    items, told, found = read(path, format="alpaca", columns={"question": "instruction", "answer": "output"})
    assert items == [Example(instruction="How fast?", output="30")]
    assert told == ["line 3: it has 2 cells, and the first line 3"]
    assert next(one.aside for one in found.items()) == ("n",)


def test_what_is_wrong_is_named_with_its_place_and_the_rest_is_read(tmp_path: Path) -> None:
    good = json.dumps({"instruction": "a", "output": "b"})
    lines = tmp_path / "in.jsonl"
    lines.write_text(f'{good}\nnonsense\n{{"instruction": "a"}}\n{"x" * (MOST_CHARACTERS + 1)}\n\n{good}')
    items, told, _ = read(lines)
    assert len(items) == 2 and [line.split(":")[0] for line in told] == ["line 2", "line 3", "line 4"]
    assert "more than 4,194,304 characters" in told[2]
    whole = tmp_path / "in.json"
    whole.write_text(f'[{good}, 3, {{"instruction": "\\ud800", "output": "b"}}, {good}, {{"instruction" 1}}, {good}]')
    items, told, _ = read(whole)
    assert len(items) == 2 and [line.split(":")[0] for line in told] == ["item 2", "item 3", "item 5"]
    assert told[-1].endswith("nothing after it can be read")
    whole.write_text(f"[{good}, {good[:9]}")
    assert read(whole)[1] == ["item 2: Unterminated string starting at; nothing after it can be read"]
    whole.write_text(f"[{good}] {good}")
    assert len(read(whole)[0]) == 1


def test_a_folder_is_read_file_by_file_and_llamafactorys_by_what_it_says_of_its_columns(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"instruction": "a", "output": "b"}\n{"instruction": "a"}\n')
    (tmp_path / "notes.txt").write_text("no data")
    DatasetDict({"train": Dataset.from_list([{"prompt": "p", "answer": "q"}])}).save_to_disk(str(tmp_path / "saved"))
    items, told, _ = read(tmp_path / "saved", columns={"prompt": "instruction", "answer": "output"})
    assert items == [Example(instruction="p", output="q")]
    (tmp_path / "saved").rename(tmp_path / ".saved")
    items, told, found = read(tmp_path)
    assert items == [Example(instruction="a", output="b")] and told[0].startswith(
        f"{tmp_path.name}/a.jsonl line 2: output"
    )
    entry = {"file_name": "rows.json", "columns": {"prompt": "asked", "response": "said"}}
    (tmp_path / "dataset_info.json").write_text(json.dumps({"mine": entry}))
    (tmp_path / "rows.json").write_text('[{"asked": "a", "said": "b"}]')
    items, told, found = read(tmp_path)
    assert items == [Example(instruction="a", output="b")] and "LLaMA-Factory" in found.formats[0]


def test_what_people_prefer_is_sent_where_it_belongs_and_a_broken_table_is_named(tmp_path: Path) -> None:
    path = tmp_path / "in.json"
    path.write_text('[{"prompt": "a", "chosen": "b", "rejected": "c"}]')
    with pytest.raises(Invalid, match="noria preferences import"):
        examples(path)
    path.write_bytes(b"PAR1 and no table")
    items, told, _ = read(path)
    assert not items and "nothing after it can be read" in told[0]


def test_what_comes_through_a_pipe_is_read_like_a_file(tmp_path: Path) -> None:
    pipe = tmp_path / "in.jsonl"
    os.mkfifo(pipe)
    row = '{"instruction": "a", "output": "b"}\nnonsense\n'
    writer = threading.Thread(target=lambda: pipe.write_text(row), daemon=True)
    writer.start()
    items, told, found = read(pipe)
    assert items == [Example(instruction="a", output="b")] and told[0].startswith("line 2: ")
    assert found.formats == ("in.jsonl: alpaca, JSON lines in UTF-8",)


def test_a_large_list_in_one_line_is_read_in_little_memory(tmp_path: Path) -> None:
    path = tmp_path / "in.json"
    row = json.dumps({"instruction": "a", "output": "b" * 2000})
    with path.open("w") as file:
        file.write("[" + ",".join([row] * 10_000) + "]")
    assert path.stat().st_size > 20_000_000
    tracemalloc.start()
    count = sum(1 for one in examples(path).items() if one.item is not None)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == 10_000 and peak < 4_000_000
