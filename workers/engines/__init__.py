"""The engines that can serve a release. Adding one is one class in one file, and one row here."""

from collections.abc import Callable

from streams.errors import Invalid
from workers.engines.lightllm import LightLLMEngine
from workers.engines.llamacpp import LlamaCppEngine
from workers.engines.protocol import Engine, EngineSpec

ENGINES: dict[str, Callable[[EngineSpec, str], Engine]] = {
    "llamacpp": LlamaCppEngine,
    "lightllm": LightLLMEngine,
}


def make_engine(spec: EngineSpec, key: str) -> Engine:
    """The engine that `spec.kind` names, not started yet; `key` is what its callers send. Raises Invalid for an unknown kind."""
    if spec.kind not in ENGINES:
        raise Invalid(f"there is no engine {spec.kind!r}; there are {', '.join(ENGINES)}")
    return ENGINES[spec.kind](spec, key)
