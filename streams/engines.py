"""The kinds of engine, as whoever asks one must know them. `workers.engines` has a module of each name, whose ENGINE starts it.

Adding one is a row here and that module.
"""

from collections.abc import Callable

from msgspec import Struct

from streams.engine_client import Sampling
from streams.errors import Invalid
from streams.recipes import Needs


class EngineKind(Struct, frozen=True, kw_only=True):
    """`carries`: the models that it can serve, by what they need. `counts_tokens`: whether it answers `engine_client.count_tokens`.
    `beyond`: the settings of `Sampling` that it has no way to follow, each with whether it is asked for."""

    carries: frozenset[Needs] = frozenset({"merged"})
    counts_tokens: bool
    beyond: Callable[[Sampling], dict[str, bool]] = lambda asked: {}


def _beyond_lightllm(asked: Sampling) -> dict[str, bool]:
    return {
        "min_p": asked.min_p > 0,
        "logit_bias": bool(asked.logit_bias),
        "logprobs": asked.logprobs is not None,
        "response_format": asked.response_format is not None,
        "frequency_penalty": asked.frequency_penalty < 0,
        "presence_penalty": asked.presence_penalty < 0,
        "repetition_penalty": asked.repetition_penalty < 1,
    }


ENGINES = {
    "llamacpp": EngineKind(counts_tokens=True),
    "lightllm": EngineKind(counts_tokens=False, beyond=_beyond_lightllm),
    "transformers": EngineKind(
        carries=frozenset({"merged", "adapter"}),
        counts_tokens=True,
        beyond=lambda asked: {"response_format": asked.response_format is not None},
    ),
}
DEFAULT = "llamacpp"
CARRIES_ALL = "transformers"


def engine_kind(name: str) -> EngineKind:
    """Raises Invalid for one that there is not."""
    if name not in ENGINES:
        raise Invalid(f"there is no engine {name!r}; there are {', '.join(ENGINES)}")
    return ENGINES[name]


def serving_kind(engine: str, needs: Needs) -> str:
    """The kind of engine that serves a model of a domain whose own kind is `engine`: that, if it carries what the model needs."""
    return engine if needs in engine_kind(engine).carries else CARRIES_ALL


def beyond(kind: str, asked: Sampling) -> str | None:
    """The name of a setting that engines of that kind have no way to follow, if `asked` holds one."""
    return next((name for name, is_asked in engine_kind(kind).beyond(asked).items() if is_asked), None)
