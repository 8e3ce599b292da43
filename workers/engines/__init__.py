"""The engines that can serve a release. Adding one is a row of `streams.engines` and a module of its name here, with its ENGINE."""

import sys
from importlib import import_module
from importlib.metadata import distributions
from pathlib import Path

from streams.engines import engine_kind
from workers.engines.protocol import Engine, EngineMaker, EngineSpec


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


def export(kind: str, model_dir: Path, source: Path | None = None) -> None:
    """Write into `model_dir` what engines of that kind read besides weights and tokenizer. See `EngineMaker.export`."""
    _named(kind).export(model_dir, source)


def check(kind: str, model_dir: Path) -> float | None:
    """How far what was exported for engines of that kind is from the model itself. See `EngineMaker.check`."""
    return _named(kind).check(model_dir)


def _named(kind: str) -> EngineMaker:
    engine_kind(kind)
    made: EngineMaker = import_module(f"{__name__}.{kind}").ENGINE
    return made
