"""Ask an engine an exam's questions and score the answers, with OpenCompass as a child process in its own environment.

OpenCompass can fail with exit code 0, so nothing but complete result files counts as success.
"""

import contextlib
import json
import os
import re
import select
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, TypeVar

import msgspec
from msgspec import Struct
from tokenizers import Tokenizer

from streams import scoring
from streams.control_tokens import escape_control_tokens
from streams.errors import Unavailable
from workers.engines.process import stop_child
from workers.evaluator import inside
from workers.evaluator.install import python_of
from workers.evaluator.memory import memory_folder, purge_left_overs
from workers.models.tokens import control_tokens

ANSWER_TOKENS = 32
LONGER, LONGEST = 1.5, 512
"""Where a person's own words are more tokens than that, an answer may have so many times as many, and at most so many."""
NO_LIMIT = 10_000_000  # of a prompt's tokens: what is too long the engine refuses, where OpenCompass would give up the whole exam
AT_ONCE = 12
"""Questions in flight for each engine: as many as an examined engine has slots."""

POLL_S = 0.2
STOP_S = 2.0
_LIBRARIES = "kept"  # where libraries may write
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


class Cost(Struct, frozen=True):
    """Of one answer, as its engine and the clock told it: tokens of prompt and answer, and how long it took beside AT_ONCE less
    one others."""

    prompt_tokens: int
    completion_tokens: int
    seconds: float


class ExamRow(Struct, frozen=True):
    """What the engine answered to one question, and whether that is right. A question it refused has no prediction; the `cost` is
    None where the engine did not tell."""

    id: str
    set: str
    right: bool
    prediction: str
    cost: Cost | None = None

    def __repr__(self) -> str:
        return f"ExamRow({self.id!r}, {self.set!r}, {self.right})"


class Endpoint(Struct, frozen=True):
    """The engines of one model that are asked side by side. A base URL is http://host:port, without /v1."""

    base_urls: tuple[str, ...]
    key: str
    model_name: str

    def __repr__(self) -> str:
        return f"Endpoint({self.base_urls!r}, {self.model_name!r})"


class Exam(Struct, frozen=True):
    """What one model is asked. `tokenizer_dir`: the model directory whose tokenizer it uses (OpenCompass counts tokens by it)."""

    endpoint: Endpoint
    tokenizer_dir: Path
    items: Sequence[ExamItem]

    def __repr__(self) -> str:
        return f"Exam({self.endpoint!r}, {len(self.items)} items)"


class Examiner:
    """One OpenCompass, asked as often as one likes.

    Starting it takes as long as asking some fifty questions, so it may be started before the exam is known; then it waits, and
    takes no processor. It ends with this process, and when an exam fails.
    """

    def __init__(self, environment: Path) -> None:
        """`environment`: OpenCompass's, as `workers.evaluator.install` makes it.

        Raises Invalid where there is no memory file system, Unavailable when OpenCompass is not installed.
        """
        python = python_of(environment)
        purge_left_overs()
        with ExitStack() as stack:
            self._folder = stack.enter_context(memory_folder())
            for module in (inside, scoring):
                shutil.copy(str(module.__file__), self._folder)
            self._answered = self._folder / "answered"
            self._answered.touch(0o600)
            self._said = self._folder / "said.txt"
            (self._folder / _LIBRARIES).mkdir(mode=0o700)
            self._stays = {path.name for path in self._folder.iterdir()} | {self._said.name}
            with self._said.open("ab") as output:
                self._child = subprocess.Popen(
                    [
                        str(python),
                        "inside.py",
                        str(self._folder / "exam.json"),
                        "-w",
                        str(self._folder / "out"),
                        "--debug",
                    ],
                    stdin=subprocess.PIPE,  # it ends when this closes
                    stdout=subprocess.PIPE,
                    stderr=output,
                    cwd=self._folder,
                    env=_environment(self._folder, self._answered),
                    bufsize=0,
                    start_new_session=True,
                )
            stack.callback(stop_child, self._child, STOP_S)
            self._left = stack.pop_all()

    @property
    def room(self) -> Path:
        """The folder that holds the words of an exam while it runs."""
        return self._folder

    def waits(self) -> bool:
        """Whether an exam can be given to it."""
        return self._child.poll() is None

    def close(self) -> None:
        """End it, with all that holds a word of the exam. Closing twice is allowed."""
        self._left.close()

    def evaluate(
        self, exams: Sequence[Exam], deadline_s: float, progress: Callable[[int, int], None]
    ) -> list[list[ExamRow]]:
        """For every exam a row for each item, in their order: asked greedily, `ANSWER_TOKENS` at most (more where a
        person's own words have more), scored by `scoring.is_right`. `progress` is called with (answered, all) a few times a second.

        Everything that holds a word of the exam is in a memory-backed folder, and gone when this returns. Raises Unavailable when
        OpenCompass fails or passes `deadline_s`, or a model refuses everything; this is closed then. When `progress` raises, the
        exam is ended, and another can be asked.
        """
        try:
            for number, exam in enumerate(exams):
                _write_questions(self._folder, number, exam)
            (self._folder / "exam.json").write_text(json.dumps(_configuration(self._folder, exams)))
            # The keys through the pipe: a configuration is copied about, and an environment can be read for longer.
            keys = {_model_name(number): exam.endpoint.key for number, exam in enumerate(exams)}
            self._begin(json.dumps(keys))
            self._wait(sum(len(exam.items) for exam in exams), deadline_s, progress)
            rows = [_read_exam(self._folder, number, exam) for number, exam in enumerate(exams)]
        except Unavailable:
            self.close()
            raise
        finally:
            if self.waits():
                self._forget()
        return rows

    def _forget(self) -> None:
        """Remove what the last exam left in the folder."""
        for path in self._folder.iterdir():
            if path.name not in self._stays or path.name == _LIBRARIES:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        (self._folder / _LIBRARIES).mkdir(mode=0o700)
        for written in (self._answered, self._said):
            os.truncate(written, 0)  # they are open, to be appended to

    def _begin(self, line: str) -> None:
        assert self._child.stdin is not None
        try:
            self._child.stdin.write(f"{line}\n".encode())
        except BrokenPipeError:
            pass  # it has ended; its exit code says so

    def _wait(self, all_questions: int, deadline_s: float, progress: Callable[[int, int], None]) -> None:
        deadline = time.monotonic() + deadline_s

        def look() -> None:
            count = min(self._answered.stat().st_size, all_questions)
            progress(count, all_questions)
            if time.monotonic() > deadline:
                raise Unavailable(
                    f"OpenCompass took longer than {deadline_s:.0f} s; {count} of {all_questions} questions were answered"
                )

        try:
            exam = self._number(look)  # its process
        except BaseException:
            self.close()  # the exam has not begun, but would
            raise
        try:
            status = self._number(look)
        except BaseException:
            with contextlib.suppress(ProcessLookupError):
                os.kill(exam, signal.SIGKILL)
                self._number(lambda: None)
            raise
        if status != 0:
            raise Unavailable(f"OpenCompass ended with status {status}: {_error_type(self._said)}")
        progress(all_questions, all_questions)

    def _number(self, look: Callable[[], None]) -> int:
        """What the child says next, calling `look` until it does. Raises Unavailable if it has ended."""
        assert self._child.stdout is not None
        while not select.select([self._child.stdout], [], [], POLL_S)[0]:
            look()
        line = self._child.stdout.readline()
        if not line:
            raise Unavailable(f"OpenCompass ended with status {self._child.wait()}: {_error_type(self._said)}")
        return int(line)


def _write_questions(folder: Path, number: int, exam: Exam) -> None:
    if len({(item.set, item.id) for item in exam.items}) != len(exam.items):
        raise ValueError("two questions of a set have the same id")
    tokens = control_tokens(exam.tokenizer_dir)
    lines = [
        json.dumps({"question": escape_control_tokens(item.question, tokens), _REFERENCE: _reference(item)})
        for item in exam.items
    ]
    (folder / f"{_dataset_name(number)}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _longer(exam: Exam) -> dict[str, int]:
    """By digest of the question how many tokens an answer may have that is to say what a person said at more length."""
    control = control_tokens(exam.tokenizer_dir)
    tokenizer = Tokenizer.from_file(str(exam.tokenizer_dir / "tokenizer.json"))
    said = [
        (item, len(tokenizer.encode(item.answer, add_special_tokens=False).ids)) for item in exam.items if not item.keys
    ]
    return {
        inside.digest_of(escape_control_tokens(item.question, control)): min(LONGEST, int(LONGER * tokens))
        for item, tokens in said
        if tokens > ANSWER_TOKENS
    }


def _model_name(number: int) -> str:
    return f"model-{number}"


def _dataset_name(number: int) -> str:
    return f"questions-{number}"


def _costs_name(number: int) -> str:
    return f"costs-{number}.jsonl"


# OpenCompass fills templates by replacing {column} over and over: a question that holds this name in braces would lose it.
_REFERENCE = "noria_reference_of_this_question"


def _reference(item: ExamItem) -> str:
    return json.dumps([item.answer, *item.keys], ensure_ascii=False)


def _configuration(folder: Path, exams: Sequence[Exam]) -> dict[str, Any]:
    """Data only: with neither "infer" nor "eval" section, OpenCompass asks everything in one process. All questions of a model
    are one dataset, whatever their set, since it waits for the last answer of one before it begins the next."""
    combinations = [
        {"models": [_model(folder, exam, number)], "datasets": [_dataset(folder, number)]}
        for number, exam in enumerate(exams)
    ]
    every: dict[str, Any] = {"models": [], "datasets": [], "model_dataset_combinations": combinations}
    for combination in combinations:
        every["models"] += combination["models"]
        every["datasets"] += combination["datasets"]
    return every


def _dataset(folder: Path, number: int) -> dict[str, Any]:
    name = _dataset_name(number)
    ask_as_it_is = {"round": [{"role": "HUMAN", "prompt": "{question}"}]}
    return {
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


def _model(folder: Path, exam: Exam, number: int) -> dict[str, Any]:
    return {
        "abbr": _model_name(number),
        "type": "ExamEngine",
        "path": exam.endpoint.model_name,
        "addresses": [f"{base_url}/v1/" for base_url in exam.endpoint.base_urls],
        "at_once": AT_ONCE,
        "key": _model_name(number),  # which of the keys that come through the pipe
        "costs": str(folder / _costs_name(number)),
        "longer": _longer(exam),
        "tokenizer_path": str(exam.tokenizer_dir.absolute()),  # else it wants to download one
        # Without the two roles some versions add a line break to the question, which changes half of a small model's answers.
        "meta_template": {
            "round": [{"role": "HUMAN", "api_role": "HUMAN"}, {"role": "BOT", "api_role": "BOT", "generate": True}]
        },
        "query_per_second": 1000,  # it holds to one a second by itself
        "batch_size": 100_000,  # all at a time: it waits for the last answer of a batch too
        "retry": 2,
        "timeout": 60,
        "temperature": 0,
        "max_out_len": ANSWER_TOKENS,
        "max_seq_len": NO_LIMIT,
        # One refused question would fail the whole exam.
        "status_code_mappings": {"400": _REFUSED},
        "run_cfg": {"num_gpus": 0},
    }


def _environment(folder: Path, answered: Path) -> dict[str, str]:
    """Little of ours: what a library keeps, caches or dumps goes into the exam's folder, and nothing is fetched."""
    kept = {name: os.environ[name] for name in ("PATH", "LD_LIBRARY_PATH") if name in os.environ}
    inner = {
        name: str(folder / _LIBRARIES)
        for name in ("HOME", "HF_HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "MPLCONFIGDIR", "NLTK_DATA", "TORCH_HOME")
    }
    return {
        **kept,
        **inner,
        "TMPDIR": str(folder / _LIBRARIES),
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


class _CostOf(Cost, frozen=True):
    asked: str  # a digest of the question


def _read_costs(folder: Path, number: int) -> dict[str, Cost]:
    """By digest of the question; of one that was asked twice the last."""
    path = folder / _costs_name(number)
    if not path.exists():
        return {}
    found = msgspec.json.Decoder(_CostOf).decode_lines(path.read_bytes())
    return {one.asked: Cost(one.prompt_tokens, one.completion_tokens, one.seconds) for one in found}


def _read_exam(folder: Path, number: int, exam: Exam) -> list[ExamRow]:
    """Join OpenCompass's two files of an exam with its questions, by place. Raises Unavailable unless they are complete."""
    predictions = _read(folder, "predictions", number, dict[str, _Prediction])
    details = _read(folder, "results", number, _Result).details
    asked = exam.items
    if list(predictions) != [str(place) for place in range(len(asked))] or len(details) != len(asked):
        raise Unavailable(
            f"OpenCompass answered {len(predictions)} and scored {len(details)} of {len(asked)} questions"
        )
    said = [predictions[str(place)].prediction for place in range(len(asked))]
    if all(answer == _REFUSED for answer in said):
        raise Unavailable(f"{exam.endpoint.model_name} refused every question")
    costs, tokens = _read_costs(folder, number), control_tokens(exam.tokenizer_dir)
    return [
        ExamRow(
            item.id,
            item.set,
            all(detail.correct) and bool(detail.correct),
            "" if answer == _REFUSED else answer,
            costs.get(inside.digest_of(escape_control_tokens(item.question, tokens))),
        )
        for item, detail, answer in zip(asked, details, said, strict=True)
    ]


def _read(folder: Path, part: str, number: int, kind: type[Kind]) -> Kind:
    found = list((folder / "out").glob(f"*/{part}/{_model_name(number)}/{_dataset_name(number)}.json"))
    if len(found) != 1:
        raise Unavailable(f"OpenCompass left no {part}: {_error_type(folder / 'said.txt')}")
    try:
        return msgspec.json.decode(found[0].read_bytes(), type=kind)
    except msgspec.DecodeError as error:
        raise Unavailable(f"OpenCompass left {part} that cannot be read") from error
