"""What an engine is: a process that serves one model version on loopback, in OpenAI's protocol."""

from pathlib import Path
from typing import Protocol

from msgspec import Struct


class EngineSpec(Struct, frozen=True, kw_only=True):
    """One engine to start. `kind` names a row of `streams.engines.ENGINES`."""

    kind: str
    model_dir: Path  # a finished model directory
    model_name: str  # what it calls itself, "road-traffic@2"
    slots: int = 4  # requests answered at once; more wait in its queue
    context_tokens: int = 2048  # prompt and answer together, for each slot
    threads: int = 1
    niceness: int = 0  # of its processes: above 0, whoever waits for an answer elsewhere comes first
    port: int = 0  # 0: the operating system chooses
    lightllm: Path | None = None  # the folder of LightLLM's own environment, if it has one


class Engine(Protocol):
    """One engine process. It dies with the process that started it, however that ends.

    Whoever stops an engine drains it first: a request in flight when `stop` is called is cut off.
    """

    @property
    def base_url(self) -> str:
        """http://127.0.0.1:port; known once `ready` has returned."""

    @property
    def key(self) -> str:
        """The bearer key that callers send."""

    @property
    def model_name(self) -> str: ...

    @property
    def pid(self) -> int | None:
        """The process that was started; None before `start`."""

    @property
    def golden_tolerance(self) -> float:
        """How far its log-probabilities may be from transformers in fp32, by its number format."""

    @property
    def start_deadline_s(self) -> float:
        """How long it may take from `start` until it is ready."""

    def start(self) -> None:
        """Start the process and return at once. Raises Invalid if the model directory lacks what this engine serves."""

    def ready(self, deadline_s: float) -> None:
        """Wait until it answers as the model it should be. Raises Unavailable if it dies or `deadline_s` passes."""

    def alive(self) -> bool:
        """Whether the process runs (it may not be ready yet)."""

    def stop(self, deadline_s: float = 10.0) -> None:
        """Stop it, by force after `deadline_s`; nothing of it is left when this returns. Stopping twice is allowed."""


class EngineMaker(Protocol):
    """The class of an engine, and how a model directory is made ready for it. `package`: what has to be installed for it.
    `golden_tolerance`: as in `Engine`. `exam_engines`: how many answer an exam fastest together, on this machine."""

    @property
    def package(self) -> str: ...

    @property
    def golden_tolerance(self) -> float: ...

    @property
    def exam_engines(self) -> int: ...

    def __call__(self, spec: EngineSpec, key: str) -> Engine: ...

    def export(self, model_dir: Path, source: Path | None) -> None:
        """Write into `model_dir` (weights, tokenizer, chat template) what engines of this kind read besides. `source`: the folder
        that it was made from, which may hold what its tokenizer lacks. Raises Invalid if they could not serve it."""

    def check(self, model_dir: Path) -> float | None:
        """How far, in log-probability, what was exported is from the golden prompts of `model_dir`, as its own engine serves it;
        None where nothing is exported. Raises Invalid if that is more than rounding, Unavailable if the engine does not come up."""


class ServesAsItIs:
    """Of engines that read a model directory as transformers wrote it: nothing is exported, and what there is to compare, each swap
    compares."""

    @staticmethod
    def export(model_dir: Path, source: Path | None) -> None:
        return None

    @staticmethod
    def check(model_dir: Path) -> None:
        return None
