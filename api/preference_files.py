"""What people prefer, in the files that the field's tools read: trl's preference and unpaired sets (conversational, JSON lines),
and LLaMA-Factory's ranking and KTO files (0.9.5), a folder with `dataset_info.json`. Pure."""

import json
from collections.abc import Iterable, Sequence
from typing import Any

from api.llamafactory import INFO_FILE
from streams.turns import pairs_of

Row = dict[str, Any]
PREFERENCES, UNPAIRED = "noria_preferences", "noria_unpaired"
_PROMPT = {"prompt": "instruction", "query": "input", "system": "system", "history": "history"}


def trl_preferences(pairs: Iterable[Row]) -> list[Row]:
    """`prompt`, `chosen`, `rejected`, each a list of messages, as `trl.RewardTrainer` and `DPOTrainer` take them."""
    return [
        {"prompt": pair["prompt"], "chosen": _said(pair["chosen"]), "rejected": _said(pair["rejected"])}
        for pair in pairs
    ]


def trl_unpaired(labels: Iterable[Row]) -> list[Row]:
    """`prompt`, `completion`, `label`, as `trl.KTOTrainer` takes them."""
    return [{"prompt": one["prompt"], "completion": _said(one["completion"]), "label": one["label"]} for one in labels]


def llamafactory_folder(pairs: Sequence[Row], labels: Sequence[Row]) -> dict[str, str]:
    """The files by their names: two data sets, and the file that says which column is which."""
    ranking = [_asked(one["prompt"]) | {"chosen": one["chosen"], "rejected": one["rejected"]} for one in pairs]
    kto = [_asked(one["prompt"]) | {"output": one["completion"], "kto_tag": one["label"]} for one in labels]
    info = {
        PREFERENCES: {
            "file_name": f"{PREFERENCES}.json",
            "ranking": True,
            "columns": _PROMPT | {"chosen": "chosen", "rejected": "rejected"},
        },
        UNPAIRED: {
            "file_name": f"{UNPAIRED}.json",
            "columns": _PROMPT | {"response": "output", "kto_tag": "kto_tag"},
        },
    }
    return {
        f"{PREFERENCES}.json": json.dumps(ranking, ensure_ascii=False, indent=1) + "\n",
        f"{UNPAIRED}.json": json.dumps(kto, ensure_ascii=False, indent=1) + "\n",
        INFO_FILE: json.dumps(info, indent=2) + "\n",
    }


def _said(words: str) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": words}]


def _asked(messages: Sequence[dict[str, str]]) -> Row:
    """In Alpaca's fields."""
    turns = [(m["role"], m["content"]) for m in messages[:-1]]
    return {
        "instruction": messages[-1]["content"],
        "input": "",
        "system": "\n".join(words for role, words in turns if role == "system"),
        "history": [list(pair) for pair in pairs_of(turn for turn in turns if turn[0] != "system")],
    }
