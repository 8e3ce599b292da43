"""One case of `tests.bench.training` in a process of its own: `python -m tests.bench.training_case CASE MODEL OUT < rows`."""

import json
import math
import os
import resource
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import msgspec
import psutil

from streams.recipes import LoraRecipe
from workers.cores import HEAVY_THREADS, fast_precision

Rows = list[tuple[str, str]]
WHOLE = LoraRecipe(
    rank=16,
    alpha=32.0,
    upper_layers=1.0,
    learning_rate=1e-3,
    epochs=2,
    batch_rows=8,
    earlier_rows_per_step=0,
    replay_rows_per_step=0,
    row_tokens=1536,
)
MOST_BYTES = int(0.8 * psutil.virtual_memory().total)
"""What needs more memory is to end by itself, and not to have the system end something else."""
RECIPE: dict[str, Any] = msgspec.to_builtins(WHOLE)


@dataclass(frozen=True)
class Done:
    """`tokens` of all epochs, prompts included; `seconds` from loading the model to the last step; `loss`: of the last epoch."""

    tokens: int
    seconds: float
    loss: float
    peak_mb: float


def ours(model: Path, rows: Rows, out: Path, recipe: LoraRecipe = WHOLE) -> tuple[float, float]:
    from workers.trainer import METHODS
    from workers.trainer.job import Job
    from workers.trainer.spec import Progress, TrainingRow

    ended = 0.0

    def progress(seen: Progress) -> None:
        nonlocal ended
        if seen.stage == "saving":
            ended = time.monotonic()

    began = time.monotonic()
    outcome = METHODS[type(recipe)].load()(
        Job(
            model_dir=model,
            rows=tuple(TrainingRow(prompt=asked, answer=answer) for asked, answer in rows),
            recipe=recipe,
            out_dir=out / "made",
            checkpoint_dir=out / "checkpoint",
            progress=progress,
            threads=HEAVY_THREADS,
            precision=fast_precision(),
            checkpoint_every_s=1e9,
        )
    )
    return ended - began, outcome.epoch_losses[-1]


def ours_upper_half(model: Path, rows: Rows, out: Path) -> tuple[float, float]:
    return ours(model, rows, out, msgspec.structs.replace(WHOLE, upper_layers=0.5))


def plain(model: Path, rows: Rows, out: Path) -> tuple[float, float]:
    """A padded batch a step, transformers' own forward, PEFT's adapter, the loss on answers alone."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer

    began = time.monotonic()
    tokenizer: Any = AutoTokenizer.from_pretrained(model)
    loaded: Any = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    config = LoraConfig(r=WHOLE.rank, lora_alpha=int(WHOLE.alpha), target_modules="all-linear", task_type="CAUSAL_LM")
    adapted: Any = get_peft_model(loaded, config)
    encoded = [_encoded(tokenizer, asked, answer) for asked, answer in rows]
    learning = [weight for weight in adapted.parameters() if weight.requires_grad]
    optimiser = torch.optim.AdamW(learning, lr=WHOLE.learning_rate, weight_decay=0.0)
    per_epoch = math.ceil(len(rows) / WHOLE.batch_rows)
    steps, losses, step = per_epoch * WHOLE.epochs, [], 0
    warm = max(1, round(WHOLE.warmup_share * steps))
    torch.manual_seed(WHOLE.seed)
    for _ in range(WHOLE.epochs):
        order = torch.randperm(len(rows)).tolist()
        for start in range(0, len(rows), WHOLE.batch_rows):
            batch = [encoded[number] for number in order[start : start + WHOLE.batch_rows]]
            longest = max(len(ids) for ids, _ in batch)
            ids = torch.tensor([ids + [0] * (longest - len(ids)) for ids, _ in batch])
            seen = torch.tensor([[1] * len(ids) + [0] * (longest - len(ids)) for ids, _ in batch])
            labels = torch.tensor([[-100] * at + ids[at:] + [-100] * (longest - len(ids)) for ids, at in batch])
            for group in optimiser.param_groups:
                group["lr"] = WHOLE.learning_rate * min((step + 1) / warm, (steps - step) / max(1, steps - warm + 1))
            loss = adapted(input_ids=ids, attention_mask=seen, labels=labels).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(learning, WHOLE.gradient_norm)
            optimiser.step()
            optimiser.zero_grad()
            losses.append(float(loss.detach()))
            step += 1
    return time.monotonic() - began, sum(losses[-per_epoch:]) / per_epoch


def trl_default(model: Path, rows: Rows, out: Path) -> tuple[float, float]:
    return _trl(model, rows, out)


def trl_best(model: Path, rows: Rows, out: Path) -> tuple[float, float]:
    """The fastest that was found on a CPU without bf16: nothing computed twice, and no autocast."""
    return _trl(model, rows, out, gradient_checkpointing=False, bf16=False)


def _trl(model: Path, rows: Rows, out: Path, **more: Any) -> tuple[float, float]:
    import torch
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import SFTConfig, SFTTrainer

    began = time.monotonic()
    loaded: Any = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    given = Dataset.from_list(
        [
            {
                "prompt": [{"role": "user", "content": asked}],
                "completion": [{"role": "assistant", "content": answer}],
            }
            for asked, answer in rows
        ]
    )
    config = SFTConfig(
        output_dir=str(out / "trl"),
        use_cpu=True,
        per_device_train_batch_size=WHOLE.batch_rows,
        num_train_epochs=WHOLE.epochs,
        learning_rate=WHOLE.learning_rate,
        lr_scheduler_type="linear",
        warmup_steps=WHOLE.warmup_share,
        max_grad_norm=WHOLE.gradient_norm,
        weight_decay=0.0,
        max_length=WHOLE.row_tokens,
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        seed=WHOLE.seed,
        **more,
    )
    trainer: Any = SFTTrainer(
        model=loaded,
        args=config,
        train_dataset=given,
        processing_class=AutoTokenizer.from_pretrained(model),
        peft_config=LoraConfig(
            r=WHOLE.rank, lora_alpha=int(WHOLE.alpha), target_modules="all-linear", task_type="CAUSAL_LM"
        ),
    )
    trainer.train()
    took = time.monotonic() - began
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    last = losses[-(len(losses) // WHOLE.epochs) :]
    return took, sum(last) / len(last)


CASES: dict[str, Callable[[Path, Rows, Path], tuple[float, float]]] = {
    "ours": ours,
    "ours_upper_half": ours_upper_half,
    "plain": plain,
    "trl_default": trl_default,
    "trl_best": trl_best,
}


def _encoded(tokenizer: Any, asked: str, answer: str) -> tuple[list[int], int]:
    """The tokens of a row, and where its answer begins."""
    prompt = [{"role": "user", "content": asked}]
    before = tokenizer.apply_chat_template(prompt, add_generation_prompt=True, tokenize=False)
    whole = tokenizer.apply_chat_template([*prompt, {"role": "assistant", "content": answer}], tokenize=False)
    ids = tokenizer(whole, add_special_tokens=False)["input_ids"]
    return ids, len(tokenizer(before, add_special_tokens=False)["input_ids"])


def main(case: str, model: Path, out: Path) -> None:
    from transformers import AutoTokenizer

    resource.setrlimit(resource.RLIMIT_DATA, (MOST_BYTES, MOST_BYTES))
    rows = [(asked, answer) for asked, answer in json.loads(sys.stdin.read())]
    printed = os.dup(1)
    os.dup2(2, 1)  # what libraries print
    import torch

    torch.set_num_threads(HEAVY_THREADS)
    seconds, loss = CASES[case](model, rows, out)
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    tokenizer = AutoTokenizer.from_pretrained(model)
    tokens = WHOLE.epochs * sum(len(_encoded(tokenizer, asked, answer)[0]) for asked, answer in rows)
    os.write(printed, json.dumps(asdict(Done(tokens, seconds, loss, peak_mb))).encode() + b"\n")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
