"""The engines that can serve a release. Adding one is one class in one file, and one row here."""

import sys
from importlib.metadata import distributions
from pathlib import Path

from streams.errors import Invalid
from workers.engines.lightllm import LightLLMEngine
from workers.engines.llamacpp import LlamaCppEngine
from workers.engines.protocol import Engine, EngineSpec

ENGINES: dict[str, type[LlamaCppEngine] | type[LightLLMEngine]] = {
    "llamacpp": LlamaCppEngine,
    "lightllm": LightLLMEngine,
}


def make_engine(spec: EngineSpec, key: str) -> Engine:
    """The engine that `spec.kind` names, not started yet; `key` is what its callers send. Raises Invalid for an unknown kind."""
    return _named(spec.kind)(spec, key)


def golden_tolerance(kind: str) -> float:
    """How far, in log-probability, an engine of that kind may be from its trainer. Raises Invalid for an unknown kind."""
    return _named(kind).golden_tolerance


def exam_engines(kind: str) -> int:
    """How many engines of that kind answer an exam fastest together, on this machine. Raises Invalid for an unknown kind."""
    return _named(kind).exam_engines


def engine_version(kind: str, lightllm: Path | None) -> str:
    """Of the package behind engines of that kind; empty when it is not installed. `lightllm`: LightLLM's own environment."""
    package = _named(kind).package
    folders = [] if lightllm is None else [str(folder) for folder in lightllm.glob("lib/python*/site-packages")]
    found = next(iter(distributions(name=package, path=[*folders, *sys.path])), None)
    return "" if found is None else f"{package} {found.version}"


def _named(kind: str) -> type[LlamaCppEngine] | type[LightLLMEngine]:
    if kind not in ENGINES:
        raise Invalid(f"there is no engine {kind!r}; there are {', '.join(ENGINES)}")
    return ENGINES[kind]
