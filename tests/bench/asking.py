"""Ask a model that was trained what an exam would, through an engine that can serve it, without the loop around."""

import secrets
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx

from streams.scoring import is_right
from workers.cores import HEAVY_THREADS
from workers.engines import make_engine
from workers.engines.protocol import EngineSpec
from workers.models.gguf import export_gguf

Sets = dict[str, list[tuple[str, str, tuple[str, ...]]]]  # by name: question, answer, keys
ANSWER_TOKENS = 28
AT_ONCE = 8


def shares(model: Path, sets: Sets, kind: str = "llamacpp") -> dict[str, float]:
    """The share of right answers, by set; of a set without questions none."""
    asked = {name: items for name, items in sets.items() if items}
    said = answers(model, {name: [question for question, _, _ in items] for name, items in asked.items()}, kind)
    return {
        name: sum(is_right(answer, right, keys) for answer, (_, right, keys) in zip(said[name], items, strict=True))
        / len(items)
        for name, items in asked.items()
    }


def answers(
    model: Path, asked: Mapping[str, Sequence[str]], kind: str = "llamacpp", tokens: int = ANSWER_TOKENS
) -> dict[str, list[str]]:
    """What it says to each question, by set."""
    if kind == "llamacpp" and not (model / "model-f16.gguf").exists():
        export_gguf(model, model / "model-f16.gguf")
    spec = EngineSpec(
        kind=kind, model_dir=model, model_name="bench", slots=AT_ONCE, context_tokens=1024, threads=HEAVY_THREADS
    )
    engine = make_engine(spec, secrets.token_urlsafe())
    engine.start()
    try:
        engine.ready(engine.start_deadline_s)
        with httpx.Client(timeout=600, trust_env=False) as http, ThreadPoolExecutor(AT_ONCE) as pool:

            def say(question: str) -> str:
                said = http.post(
                    f"{engine.base_url}/v1/chat/completions",
                    headers={"Authorization": f"Bearer {engine.key}"},
                    json={
                        "model": "bench",
                        "messages": [{"role": "user", "content": question}],
                        "max_tokens": tokens,
                        "temperature": 0,
                    },
                )
                said.raise_for_status()
                answer: str = said.json()["choices"][0]["message"]["content"]
                return answer

            return {name: list(pool.map(say, questions)) for name, questions in asked.items()}
    finally:
        engine.stop()
