"""Ask an engine an exam's questions and score the answers, with OpenCompass as a child process in its own environment.

OpenCompass can fail with exit code 0, so nothing but complete result files counts as success.
"""

import json
import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import msgspec
from msgspec import Struct

from streams.errors import Unavailable
from workers.engines.process import stop_child
from workers.evaluator import inside, scoring
from workers.evaluator.install import python_of
from workers.evaluator.memory import memory_folder, purge_left_overs

ANSWER_TOKENS = 32
PROMPT_TOKENS = 2048
AT_ONCE = 4
"""Questions in flight: as many as an engine has slots."""

POLL_S = 0.2
STOP_S = 2.0
_MODEL = "engine"
# What stands for an answer to a question that the engine refused, such as one that is longer than its context.
_REFUSED = "\x00refused"
_ERROR = re.compile(r"^([A-Za-z_][\w.]*(?:Error|Exception|Interrupt|Exit|Timeout|Refused|Warning))\b")


class ExamItem(Struct, frozen=True):
    """One question. `set`: "fixes", "earlier", "held_out" or "general". Without `keys`, `answer` is a person's own words."""

    id: str
    set: str
    question: str
    answer: str
    keys: tuple[str, ...]

    def __repr__(self) -> str:
        return f"ExamItem({self.id!r}, {self.set!r})"


class Row(Struct, frozen=True):
    """What the engine answered to one question, and whether that is right. A question it refused has no prediction."""

    id: str
    set: str
    right: bool
    prediction: str

    def __repr__(self) -> str:
        return f"Row({self.id!r}, {self.set!r}, {self.right})"


class Endpoint(Struct, frozen=True):
    """The engine that is asked. `base_url` is http://host:port, without /v1."""

    base_url: str
    key: str
    model_name: str

    def __repr__(self) -> str:
        return f"Endpoint({self.base_url!r}, {self.model_name!r})"


def evaluate(
    environment: Path,
    endpoint: Endpoint,
    items: Sequence[ExamItem],
    tokenizer_dir: Path,
    deadline_s: float,
    progress: Callable[[int, int], None],
) -> list[Row]:
    """A row for every item, in their order: asked greedily, `ANSWER_TOKENS` at most, scored by `scoring.is_right`.

    environment    OpenCompass's, as `workers.evaluator.install` makes it
    tokenizer_dir  the model directory whose tokenizer the engine uses (OpenCompass counts tokens by it)
    progress       called with (answered, all), at most a few times a second

    Everything that holds a word of the exam is in a memory-backed folder that is gone when this returns. Raises Invalid where there
    is no such memory, Unavailable when OpenCompass is not installed, fails, passes `deadline_s`, or the engine refuses everything.
    """
    if not items:
        return []
    python = python_of(environment)
    purge_left_overs()
    with memory_folder() as folder:
        sets = _write_exam(folder, endpoint, items, tokenizer_dir)
        _run(python, folder, endpoint.key, len(items), deadline_s, progress)
        rows = [row for name, asked in sets.items() for row in _read_rows(folder, name, asked)]
    if all(row.prediction == _REFUSED for row in rows):
        raise Unavailable(f"the engine {endpoint.model_name} refused every question")
    by_item = {(row.set, row.id): row for row in rows}
    ordered = [by_item[item.set, item.id] for item in items]
    return [msgspec.structs.replace(row, prediction="") if row.prediction == _REFUSED else row for row in ordered]


def _write_exam(
    folder: Path, endpoint: Endpoint, items: Sequence[ExamItem], tokenizer_dir: Path
) -> dict[str, list[ExamItem]]:
    """Write the child's modules, the questions and OpenCompass's configuration; the items by set, in file order."""
    for module in (inside, scoring):
        shutil.copy(str(module.__file__), folder)
    sets: dict[str, list[ExamItem]] = {}
    for item in items:
        sets.setdefault(item.set, []).append(item)
    for name, asked in sets.items():
        if len({item.id for item in asked}) != len(asked):
            raise ValueError(f"two questions of the set {name} have the same id")
        lines = [json.dumps({"question": item.question, _REFERENCE: _reference(item)}) for item in asked]
        (folder / f"{name}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (folder / "exam.json").write_text(json.dumps(_configuration(folder, endpoint, list(sets), tokenizer_dir)))
    return sets


# OpenCompass fills templates by replacing {column} over and over: a question that holds this name in braces would lose it.
_REFERENCE = "noria_reference_of_this_question"


def _reference(item: ExamItem) -> str:
    return json.dumps([item.answer, *item.keys], ensure_ascii=False)


def _configuration(folder: Path, endpoint: Endpoint, names: Sequence[str], tokenizer_dir: Path) -> dict[str, Any]:
    """Data only: with neither "infer" nor "eval" section, OpenCompass asks all sets in one task of one process."""
    ask_as_it_is = {"round": [{"role": "HUMAN", "prompt": "{question}"}]}
    datasets = [
        {
            "abbr": name,
            "type": "CustomDataset",
            "path": str(folder / f"{name}.jsonl"),
            "reader_cfg": {"input_columns": ["question"], "output_column": _REFERENCE},
            "infer_cfg": {
                "prompt_template": {"type": "PromptTemplate", "template": ask_as_it_is},
                "retriever": {"type": "ZeroRetriever"},
                "inferencer": {"type": "GenInferencer", "max_out_len": ANSWER_TOKENS},
            },
            "eval_cfg": {"evaluator": {"type": "ExamScorer"}},
        }
        for name in names
    ]
    model = {
        "abbr": _MODEL,
        "type": "ExamEngine",
        "path": endpoint.model_name,
        "openai_api_base": f"{endpoint.base_url}/v1/",
        "key": "ENV",  # from the environment: a configuration is copied about
        "tokenizer_path": str(tokenizer_dir.absolute()),  # else it wants to download one
        # Without the two roles some versions add a line break to the question, which changes half of a small model's answers.
        "meta_template": {
            "round": [{"role": "HUMAN", "api_role": "HUMAN"}, {"role": "BOT", "api_role": "BOT", "generate": True}]
        },
        "query_per_second": 1000,  # it holds to one a second by itself
        "max_workers": AT_ONCE,
        "batch_size": 100_000,  # a whole set at a time: it waits for the last answer of a batch
        "retry": 2,
        "timeout": 60,
        "temperature": 0,
        "max_out_len": ANSWER_TOKENS,
        "max_seq_len": PROMPT_TOKENS,
        # One refused question would fail its whole set.
        "status_code_mappings": {"400": _REFUSED},
        "run_cfg": {"num_gpus": 0},
    }
    return {"datasets": datasets, "models": [model]}


def _run(
    python: Path,
    folder: Path,
    key: str,
    all_questions: int,
    deadline_s: float,
    progress: Callable[[int, int], None],
) -> None:
    """Run OpenCompass to its end. Raises Unavailable when it fails or takes longer than `deadline_s`."""
    deadline = time.monotonic() + deadline_s
    answered, said = folder / "answered", folder / "said.txt"
    answered.touch(0o600)
    with said.open("wb") as output:
        child = subprocess.Popen(
            [str(python), str(folder / "inside.py"), str(folder / "exam.json"), "-w", str(folder / "out"), "--debug"],
            stdin=subprocess.PIPE,  # never written to: the child ends when it closes
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=folder,
            env=_environment(folder, key, answered),
            text=True,
            start_new_session=True,
        )
    try:
        shown = -1
        while True:
            try:
                status = child.wait(POLL_S)
                break
            except subprocess.TimeoutExpired:
                count = min(answered.stat().st_size, all_questions)
                if count != shown:
                    progress(count, all_questions)
                    shown = count
                if time.monotonic() > deadline:
                    raise Unavailable(
                        f"OpenCompass took longer than {deadline_s:.0f} s; {count} of {all_questions} questions were answered"
                    ) from None
    finally:
        stop_child(child, STOP_S)
    if status != 0:
        raise Unavailable(f"OpenCompass ended with status {status}: {_error_type(said)}")
    progress(all_questions, all_questions)


def _environment(folder: Path, key: str, answered: Path) -> dict[str, str]:
    """Little of ours: what a library keeps, caches or dumps goes into the exam's folder, and nothing is fetched."""
    kept = {name: os.environ[name] for name in ("PATH", "LD_LIBRARY_PATH") if name in os.environ}
    inner = {
        name: str(folder / "kept")
        for name in ("HOME", "HF_HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "MPLCONFIGDIR", "NLTK_DATA", "TORCH_HOME")
    }
    (folder / "kept").mkdir(mode=0o700)
    return {
        **kept,
        **inner,
        "TMPDIR": str(folder / "kept"),
        "LANG": "C.UTF-8",
        "HF_HUB_OFFLINE": "1",
        "HF_DATASETS_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "NO_PROXY": "*",
        "CUDA_VISIBLE_DEVICES": "",
        "OMP_NUM_THREADS": "1",
        "OMP_WAIT_POLICY": "passive",
        "TOKENIZERS_PARALLELISM": "false",
        "PYTHONNOUSERSITE": "1",
        "PYTHONUNBUFFERED": "1",
        "OPENAI_API_KEY": key,
        inside.ANSWERED_VARIABLE: str(answered),
    }


def _error_type(said: Path) -> str:
    """The type of the last exception that a process printed. Never its message, which may quote a question."""
    for line in reversed(said.read_text(encoding="utf-8", errors="replace").splitlines()):
        found = _ERROR.match(line)
        if found:
            return found[1]
    return "no exception was printed"


Kind = TypeVar("Kind")


class _Detail(Struct):
    correct: list[bool]


class _Result(Struct):
    details: list[_Detail]


class _Prediction(Struct):
    prediction: str


def _read_rows(folder: Path, name: str, asked: Sequence[ExamItem]) -> list[Row]:
    """Join OpenCompass's two files of a set with its questions, by place. Raises Unavailable unless they are complete."""
    predictions = _read(folder, "predictions", name, dict[str, _Prediction])
    details = _read(folder, "results", name, _Result).details
    if list(predictions) != [str(place) for place in range(len(asked))] or len(details) != len(asked):
        raise Unavailable(
            f"OpenCompass answered {len(predictions)} and scored {len(details)} of {len(asked)} questions of the set {name}"
        )
    return [
        Row(item.id, item.set, all(detail.correct) and bool(detail.correct), predictions[str(place)].prediction)
        for place, (item, detail) in enumerate(zip(asked, details, strict=True))
    ]


def _read(folder: Path, part: str, name: str, kind: type[Kind]) -> Kind:
    found = list((folder / "out").glob(f"*/{part}/{_MODEL}/{name}.json"))
    if len(found) != 1:
        raise Unavailable(f"OpenCompass left no {part} of the set {name}: {_error_type(folder / 'said.txt')}")
    try:
        return msgspec.json.decode(found[0].read_bytes(), type=kind)
    except msgspec.DecodeError as error:
        raise Unavailable(f"OpenCompass left {part} of the set {name} that cannot be read") from error
