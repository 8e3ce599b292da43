"""A domain's examples as LLaMA-Factory (0.9.5) reads them: a folder that `llamafactory-cli train sft.yaml` trains as it is.

Its Alpaca fields are ours; `dataset_info.json` says which column is which. The YAML says the recipe of the domain's policy in its
words. The chat template is the one in the model's tokenizer: none is named. Pure.
"""

import json
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from streams.alike import words_of
from streams.personal import masked

DATASET = "noria"
ROWS_FILE, INFO_FILE, RUN_FILE = "rows.json", "dataset_info.json", "sft.yaml"
COLUMNS = {
    "prompt": "instruction",
    "query": "input",
    "response": "output",
    "system": "system",
    "history": "history",
}


def not_asked(rows: Sequence[Mapping[str, Any]], exam: Sequence[str], mask: Collection[str]) -> list[Mapping[str, Any]]:
    """The rows that ask none of the exam's questions, but for what the policy masks."""
    forbidden = {words_of(masked(question, mask)[0]) for question in exam}
    asked = (words_of(masked(f"{row['instruction']} {row['input']}", mask)[0]) for row in rows)
    return [row for row, words in zip(rows, asked, strict=True) if words not in forbidden]


def folder_of(rows: Sequence[Mapping[str, Any]], recipe: Mapping[str, Any], model: str) -> dict[str, str]:
    """The files by their names. `rows` in Alpaca's fields; `recipe` as the policy's; `model`: a folder in transformers' format.

    Raises KeyError for a recipe that is no LoRA.
    """
    run = {
        "model_name_or_path": model,
        "trust_remote_code": False,
        "stage": "sft",
        "do_train": True,
        "finetuning_type": "lora",
        "lora_rank": recipe["rank"],
        "lora_alpha": round(recipe["alpha"]),
        "lora_dropout": 0.0,
        "lora_target": "all",
        "dataset_dir": ".",
        "dataset": DATASET,
        "cutoff_len": recipe["row_tokens"],
        "preprocessing_num_workers": 1,
        "per_device_train_batch_size": recipe["batch_rows"],
        "gradient_accumulation_steps": 1,
        "num_train_epochs": recipe["epochs"],
        "learning_rate": recipe["learning_rate"],
        "lr_scheduler_type": "linear",
        "warmup_ratio": recipe["warmup_share"],
        "max_grad_norm": recipe["gradient_norm"],
        "weight_decay": 0.0,
        "seed": recipe["seed"] % 2**32,
        "output_dir": "adapter",
        "overwrite_output_dir": True,
        "save_strategy": "no",
        "logging_steps": 1,
        "report_to": "none",
    }
    return {
        ROWS_FILE: json.dumps([dict(row) for row in rows], ensure_ascii=False, indent=1) + "\n",
        INFO_FILE: json.dumps({DATASET: {"file_name": ROWS_FILE, "columns": COLUMNS}}, indent=2) + "\n",
        # Every line is YAML as it is JSON.
        RUN_FILE: "".join(f"{name}: {_said(value)}\n" for name, value in run.items()),
    }


def _said(value: Any) -> str:
    """A number with a point: YAML 1.1 reads `1e-05` as a string."""
    if isinstance(value, float):
        whole = f"{value:.12f}".rstrip("0")
        return whole + "0" if whole.endswith(".") else whole
    return json.dumps(value, ensure_ascii=False)
