"""Files of preferences: as trl and LLaMA-Factory read them."""

import json
from pathlib import Path

import msgspec
from datasets import load_dataset
from trl import is_conversational
from trl.data_utils import unpair_preference_dataset

from api.preference_files import PREFERENCES, UNPAIRED, llamafactory_folder, trl_preferences, trl_unpaired

ASKED = [
    {"role": "system", "content": "You answer."},
    {"role": "user", "content": "你好"},
    {"role": "assistant", "content": "Hello."},
    {"role": "user", "content": "How far?"},
]
PAIRS = [{"prompt": ASKED, "chosen": "Seven miles.", "rejected": "Far.", "ranking": "p1", "events": ["e1"]}]
LABELS = [
    {"prompt": ASKED, "completion": "Seven miles.", "label": True, "events": ["e1"]},
    {"prompt": ASKED[-1:], "completion": "Far.", "label": False, "events": ["e2"]},
]


def test_trl_reads_pairs_and_labels_as_conversations(tmp_path: Path) -> None:
    for name, rows in (("pairs", trl_preferences(PAIRS)), ("labels", trl_unpaired(LABELS))):
        (tmp_path / f"{name}.jsonl").write_bytes(b"".join(msgspec.json.encode(row) + b"\n" for row in rows))
    files = {name: str(tmp_path / f"{name}.jsonl") for name in ("pairs", "labels")}
    cache = str(tmp_path / "cache")
    pairs = load_dataset("json", data_files=files["pairs"], split="train", cache_dir=cache)
    labels = load_dataset("json", data_files=files["labels"], split="train", cache_dir=cache)
    assert pairs.column_names == ["prompt", "chosen", "rejected"] and is_conversational(pairs[0])
    assert labels.column_names == ["prompt", "completion", "label"] and is_conversational(labels[0])
    assert labels["label"] == [True, False] and labels[0]["prompt"] == ASKED
    apart = unpair_preference_dataset(pairs)
    assert [row["completion"][0]["content"] for row in apart] == ["Seven miles.", "Far."]


def test_llamafactory_is_told_which_column_is_which_of_a_ranking_and_of_a_kto_file() -> None:
    files = {name: json.loads(words) for name, words in llamafactory_folder(PAIRS, LABELS).items()}
    info = files.pop("dataset_info.json")
    assert info[PREFERENCES]["ranking"] is True and info[UNPAIRED]["columns"]["kto_tag"] == "kto_tag"
    for about in info.values():
        for row in files[about["file_name"]]:
            assert set(about["columns"].values()) == set(row)
    (pair,) = files[f"{PREFERENCES}.json"]
    assert (pair["instruction"], pair["chosen"], pair["rejected"]) == ("How far?", "Seven miles.", "Far.")
    assert (pair["system"], pair["history"]) == ("You answer.", [["你好", "Hello."]])
    assert [row["kto_tag"] for row in files[f"{UNPAIRED}.json"]] == [True, False]
