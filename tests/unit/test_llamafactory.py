"""Examples in a folder that LLaMA-Factory trains as it is. (That it does: `make bench NAME=training`.)"""

import json

import msgspec
import pytest
import yaml

from api.llamafactory import DATASET, folder_of, not_asked
from streams.recipes import LoraRecipe

ROW = {
    "instruction": 'Darf ich "hier" parken?\n',
    "input": "",
    "output": "不可以。",
    "system": "",
    "history": [["a", "b"]],
}


def made(recipe: LoraRecipe) -> dict[str, str]:
    return folder_of([ROW], msgspec.to_builtins(recipe), "/models/a: #model")


def test_the_rows_are_what_was_exported_and_every_column_of_theirs_is_named() -> None:
    files = made(LoraRecipe())
    info = json.loads(files["dataset_info.json"])[DATASET]
    assert json.loads(files[info["file_name"]]) == [ROW]
    assert set(info["columns"].values()) == set(ROW)


def test_the_recipe_is_said_in_its_words_and_numbers_are_read_as_numbers() -> None:
    recipe = LoraRecipe(rank=4, alpha=8.0, learning_rate=1e-05, epochs=3, batch_rows=2, row_tokens=96, seed=2**40)
    run = yaml.safe_load(made(recipe)["sft.yaml"])
    assert (
        run["model_name_or_path"] == "/models/a: #model"
        and run["dataset"] == DATASET
        and run["trust_remote_code"] is False
    )
    assert (run["lora_rank"], run["lora_alpha"], run["learning_rate"], run["num_train_epochs"]) == (4, 8, 1e-05, 3)
    assert (run["per_device_train_batch_size"], run["cutoff_len"], run["warmup_ratio"]) == (2, 96, 0.05)
    assert 0 <= run["seed"] < 2**32


def test_a_recipe_that_it_has_no_words_for_is_refused() -> None:
    with pytest.raises(KeyError):
        folder_of([ROW], {"method": "other"}, "/models/a")


def test_what_the_exam_asks_is_left_out_but_for_what_is_masked() -> None:
    rows = [ROW | {"instruction": "Who answers?", "input": asked} for asked in ("call 13912345678", "write")]
    exam = ["who answers? Call 13887654321", "How long?"]
    assert not_asked(rows, exam, ["phone"]) == rows[1:]
    assert not_asked(rows, exam, []) == rows
