"""Which of two answers a model finds likelier: asked of the candidate and of the release in force, about pairs that were held out.

A pair is right where the preferred answer's log-probability, summed over its tokens and its end mark, is the higher one: the
ranking accuracy of Chen et al. 2024 (arXiv 2405.19534), by the sum that preference losses move (Rafailov et al. 2023, arXiv
2305.18290). It is not divided by the number of tokens: that the sum favours short answers holds before and after alike, and the
test is paired.

    python -m workers.evaluator.likelihood < task

A child of the evaluator, because torch stays in a process that has loaded it. The task holds people's words, opened: it comes on
stdin, and what leaves is numbers. Errors are told by kind and place, as in `workers.trainer.child`.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from streams.errors import Invalid, Unavailable
from workers.cores import HEAVY_THREADS
from workers.trainer.child import NICENESS, end_with_parent, load, place_of
from workers.trainer.preference import Answers
from workers.trainer.rows import CONFIG_FILE, EncodedRow
from workers.trainer.spec import Failure, TrainingPair

POLL_S = 0.5

Told = tuple[bool | None, ...]
"""Of each pair whether the preferred answer is likelier; None: it is too long for the model, or a side is empty."""


class Task(Struct, frozen=True, forbid_unknown_fields=True):
    """`models`: finished model directories."""

    models: tuple[str, ...]
    pairs: tuple[TrainingPair, ...]

    def __repr__(self) -> str:
        return f"Task({len(self.models)} models, {len(self.pairs)} pairs)"


class Answer(Struct, frozen=True, tag="answer", tag_field="kind"):
    """Of each model."""

    told: tuple[Told, ...]


_ANSWERS: msgspec.json.Decoder[Answer | Failure] = msgspec.json.Decoder(Answer | Failure)


def likelier(models: Sequence[Path], pairs: Sequence[TrainingPair], look: Callable[[], None]) -> tuple[Told, ...]:
    """Of each model, in a child. `look` is called while it works; when it raises, the child is ended first.

    Raises Invalid if a model cannot be asked, Unavailable if this machine could not do it, RuntimeError for a bug in the child."""
    task = msgspec.json.encode(Task(tuple(map(str, models)), tuple(pairs)))
    child = subprocess.Popen(
        [sys.executable, "-m", "workers.evaluator.likelihood"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    told: bytes | None = None
    try:
        given: bytes | None = task
        while told is None:
            look()
            try:
                told, _ = child.communicate(given, timeout=POLL_S)
            except subprocess.TimeoutExpired:
                given = None  # what it has not read yet is still handed to it
    finally:
        child.kill()
        child.wait()
        for pipe in (child.stdin, child.stdout):
            if pipe is not None:
                pipe.close()
    try:
        found = _ANSWERS.decode(told)
    except msgspec.MsgspecError:
        raise Unavailable(f"the child that compares answers ended with code {child.returncode}") from None
    if isinstance(found, Answer):
        return found.told
    if found.reason == "invalid":
        raise Invalid(found.message)
    if found.reason == "unavailable":
        raise Unavailable(found.message)
    raise RuntimeError(f"the child that compares answers failed: {found.message}")


def work(task: Task) -> Answer:
    """Raises Invalid if a model cannot be loaded."""
    import torch

    torch.set_num_threads(HEAVY_THREADS)
    return Answer(tuple(_told(Path(model), task.pairs) for model in task.models))


def _told(model_dir: Path, pairs: Sequence[TrainingPair]) -> Told:
    from transformers import AutoTokenizer

    from workers.models.loaded import load_model

    tokenizer: Any = AutoTokenizer.from_pretrained(model_dir, local_files_only=True, trust_remote_code=False)
    model = load_model(model_dir)
    answers = Answers(tokenizer, _limit(model_dir, model))
    found: list[bool | None] = []
    for pair in pairs:
        sides = answers.ids(pair.chosen), answers.ids(pair.rejected)
        prompt = answers.prompt(pair, *sides)
        if prompt is None:
            found.append(None)
        else:
            chosen, rejected = (log_probability(model, answers.row(prompt, side)) for side in sides)
            found.append(chosen > rejected)
    return tuple(found)


def log_probability(model: Any, row: EncodedRow) -> float:
    """Of its answer, in nats; one row at a time, and of its logits no more than the answer's are made."""
    import torch

    with torch.inference_mode():
        out = model(input_ids=torch.tensor([row.inputs]), logits_to_keep=row.answer_tokens)
        log_p = out.logits[0, -row.answer_tokens :].float().log_softmax(-1)
        return float(log_p.gather(1, torch.tensor(row.ids[row.answer_at :])[:, None]).sum())


def _limit(model_dir: Path, model: Any) -> int:
    """How many tokens a row may have."""
    context = json.loads((model_dir / CONFIG_FILE).read_text(encoding="utf-8")).get("max_position_embeddings")
    prefix = getattr(getattr(model, "active_peft_config", None), "num_virtual_tokens", 0)
    return context - prefix if isinstance(context, int) else sys.maxsize


def main() -> int:
    """Exit code 0 after an answer, 1 after a failure line."""
    end_with_parent(os.getppid())
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a core file would be people's words at rest
    os.nice(NICENESS)
    os.environ |= {"GOMP_SPINCOUNT": "0", "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}
    out = os.dup(1)
    os.dup2(2, 1)
    said: Struct
    try:
        load()
        said = work(msgspec.json.decode(sys.stdin.buffer.read(), type=Task))
    except Invalid as error:
        said = Failure(reason="invalid", message=str(error))
    except (Unavailable, MemoryError, OSError) as error:
        said = Failure(reason="unavailable", message=place_of(error))
    except Exception as error:
        said = Failure(reason="bug", message=place_of(error))
    with os.fdopen(out, "wb") as pipe:
        pipe.write(msgspec.json.encode(said))
    return int(isinstance(said, Failure))


if __name__ == "__main__":
    sys.exit(main())
