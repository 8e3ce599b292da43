"""Our loss against that of trl's SFTTrainer, on the same rows, step by step."""

from pathlib import Path
from typing import Any

import pytest
import torch
from msgspec.structs import replace
from transformers import AutoModelForCausalLM

from tests.unit import trainer_tiny as tiny
from tests.unit.test_methods import CPU, train
from workers.trainer.loaded import load_tokenizer
from workers.trainer.lora import add_adapter
from workers.trainer.packed import PackedModel
from workers.trainer.plan import learning_rate
from workers.trainer.rows import encode_rows
from workers.trainer.spec import Progress

STEPS = 12


def test_the_loss_of_each_step_is_trls_within_half_a_percent(tmp_path: Path) -> None:
    from datasets import Dataset
    from peft import LoraConfig, get_peft_model
    from trl import SFTConfig, SFTTrainer

    base = tiny.make_model(tmp_path / "tiny")
    recipe = replace(tiny.RECIPE, epochs=STEPS, batch_rows=8, replay_rows_per_step=0, learning_rate=3e-2)
    told: list[Progress] = []
    train(base, tmp_path / "ours", recipe, earlier=(), progress=told.append)
    ours = [seen.loss for seen in told if seen.stage == "training"]

    packed = PackedModel(base, recipe.upper_layers, torch.float32, CPU)
    start = add_adapter(packed.model, packed.upper_layers(), recipe)
    config = LoraConfig(
        r=recipe.rank, lora_alpha=int(recipe.alpha), target_modules=sorted(start.layers), task_type="CAUSAL_LM"
    )
    model: Any = get_peft_model(AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), config)
    learned = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    for name, value in start.parameters().items():
        layer, _, which = name.rpartition(".")
        with torch.no_grad():
            learned[f"base_model.model.{layer}.lora_{which.upper()}.default.weight"].copy_(value)
    optimiser = torch.optim.AdamW(learned.values(), lr=recipe.learning_rate, weight_decay=0.0)
    rates = torch.optim.lr_scheduler.LambdaLR(
        optimiser, lambda step: learning_rate(recipe, min(step, STEPS - 1), STEPS) / recipe.learning_rate
    )
    rows = encode_rows(load_tokenizer(base), tiny.rows(), recipe.row_tokens)
    trainer = SFTTrainer(
        model=model,
        args=SFTConfig(
            output_dir=str(tmp_path / "theirs"),
            max_steps=STEPS,
            per_device_train_batch_size=len(rows),
            max_grad_norm=recipe.gradient_norm,
            logging_steps=1,
            save_strategy="no",
            report_to="none",
            use_cpu=True,
            bf16=False,
            gradient_checkpointing=False,
            completion_only_loss=True,
            disable_tqdm=True,
        ),
        train_dataset=Dataset.from_list(
            [
                {
                    "input_ids": list(row.ids),
                    "completion_mask": [int(at >= row.answer_at) for at in range(len(row.ids))],
                }
                for row in rows
            ]
        ),
        processing_class=load_tokenizer(base),
        optimizers=(optimiser, rates),
    )
    trainer.train()
    theirs = [logged["loss"] for logged in trainer.state.log_history if "loss" in logged]
    assert len(ours) == len(theirs) == STEPS and theirs[-1] < theirs[0] - 1, "it does learn"
    assert ours == [pytest.approx(loss, rel=0.005) for loss in theirs]
