"""Golden prompts: what transformers in fp32 says to a few fixed neutral questions, and how near a live engine comes to it.

Wrong rows, a wrong rotation base, a wrong template or another release all show here, where a fluent answer would hide them.
"""

import json
import math
from pathlib import Path
from typing import Any

import httpx
from msgspec import Struct, structs

from streams.errors import Invalid, Unavailable
from workers.models.loaded import has_adapter, load_model
from workers.models.tokens import token_bytes

GOLDEN_FILE = "golden.jsonl"
GOLDEN_TOKENS = 16
ALTERNATIVES = 10
LONG_CHARACTERS = 200
TIMEOUT_S = 120.0

# Fixed for ever, nobody's words: a list, digits beside line breaks, another script, and one long enough for rotation to matter.
PROMPTS = (
    "What is the capital of France?",
    "Name three primary colours.",
    "Write one sentence about the sea.",
    "Sort these numbers:\n\n1. 42\n2. 7\n3. 1999\n\nAnswer with the numbers only.",
    "请用一句话介绍长江。",
    "Finish the line: The quick brown fox",
    "What does this code print?\n\nfor i in range(3):\n    print(i * 10)\n",
    "Read the following and say in one sentence what it describes. "
    + "A river rises in the mountains, runs through a narrow valley, passes a mill with a wooden wheel, and waters the fields "
    "below the village before it meets the lake. In spring the snow melts and the river is high; in late summer a child can "
    "walk across it. The wheel turns with the stream, lifts water into a channel of stone, and the channel carries it along "
    "the hillside to the gardens. When the wheel stands still, the gardens dry within a week, and so the people of the valley "
    "repair it before they repair their own roofs.",
)


class GoldenResult(Struct, frozen=True, kw_only=True):
    """How far an engine is from the reference. Differences are of natural log-probabilities of the reference's own tokens."""

    max_difference: float
    mean_difference: float
    tokens: int  # how many were compared
    argmax_equal: int  # of these, how many the engine chose itself
    prompt_tokens_equal: bool  # template and tokenizer cut every prompt into as many tokens

    def within(self, tolerance: float) -> bool:
        return self.prompt_tokens_equal and self.tokens > 0 and self.max_difference <= tolerance


class GoldenLine(Struct, frozen=True, kw_only=True):
    """One line of golden.jsonl: the reference's greedy answer, token by token."""

    prompt: str
    prompt_ids: list[int]  # the prompt in the model's chat template
    token_ids: list[int]
    logprobs: list[float]
    whole: list[bool]  # whether the answer up to this token ends on a whole character


def load_transformers() -> None:
    """Load what `write_golden` needs, which takes as long as a conversion."""
    import torch  # noqa: F401
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM  # noqa: F401


def write_golden(model_dir: Path, model: Any = None) -> Path:
    """Write golden.jsonl into `model_dir` and return its path. `model`: the same weights, and the adapter if the directory holds
    one, loaded already, fp32 and in eval mode."""
    from transformers import AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(model_dir, padding_side="left")
    if model is None:
        model = load_model(model_dir)
    pieces = token_bytes(model_dir)
    said: dict[str, GoldenLine] = {}
    short = [prompt for prompt in PROMPTS if len(prompt) <= LONG_CHARACTERS]
    batches = [
        short,
        [prompt for prompt in PROMPTS if prompt not in short],
    ]  # padding all to the longest would cost most
    if has_adapter(model_dir):
        batches = [[prompt] for prompt in PROMPTS]  # what stands before a prompt, stands before its padding too
    for batch in batches:
        said |= {line.prompt: line for line in _greedy(model, tokenizer, pieces, batch)}
    path = model_dir / GOLDEN_FILE
    path.write_text(
        "".join(json.dumps(structs.asdict(said[prompt]), ensure_ascii=False) + "\n" for prompt in PROMPTS),
        encoding="utf-8",
    )
    return path


def _greedy(model: Any, tokenizer: Any, pieces: dict[int, bytes], prompts: list[str]) -> list[GoldenLine]:
    """Greedy continuations in one batch (in fp32 they do not depend on it), with raw scores: no warpers, no penalties."""
    import torch
    import transformers

    encoded = tokenizer.apply_chat_template(
        [[{"role": "user", "content": prompt}] for prompt in prompts],
        add_generation_prompt=True,
        return_dict=True,
        return_tensors="pt",
        padding=True,
    ).to(model.device)
    ends = model.generation_config.eos_token_id
    ends = ends if isinstance(ends, list) else [ends]
    make_settings: Any = transformers.GenerationConfig  # untyped
    settings = make_settings(
        max_new_tokens=GOLDEN_TOKENS,
        do_sample=False,
        eos_token_id=ends,
        pad_token_id=tokenizer.pad_token_id,
        output_logits=True,
        return_dict_in_generate=True,
    )
    with torch.inference_mode():
        out = model.generate(**encoded, generation_config=settings)
        scores = torch.stack(out.logits, dim=1).float().log_softmax(dim=-1)
    lines = []
    for row, prompt in enumerate(prompts):
        padded = encoded["input_ids"].shape[1]
        length = int(encoded["attention_mask"][row].sum())
        answer: list[int] = out.sequences[row, padded:].tolist()
        answer = answer[: next((at + 1 for at, token in enumerate(answer) if token in ends), len(answer))]
        line = GoldenLine(
            prompt=prompt,
            prompt_ids=encoded["input_ids"][row, padded - length :].tolist(),
            token_ids=answer,
            logprobs=[round(float(scores[row, at, token]), 6) for at, token in enumerate(answer)],
            whole=whole_characters([pieces.get(token, b"") for token in answer]),
        )
        lines.append(line)
    return lines


def whole_characters(pieces: list[bytes]) -> list[bool]:
    """For each piece, whether the text up to it ends on a whole UTF-8 character, as llama.cpp's server decides it: nothing is
    missing unless one of the last three bytes announces more bytes than follow it."""
    found, text = [], b""
    for piece in pieces:
        text = (text + piece)[-4:]
        missing = False
        for after, byte in enumerate(reversed(text)):
            announced = 3 if byte & 0xF8 == 0xF0 else 2 if byte & 0xF0 == 0xE0 else 1 if byte & 0xE0 == 0xC0 else 0
            missing = missing or announced > after
        found.append(not missing)
    return found


def read_golden(path: Path) -> list[GoldenLine]:
    """Read golden.jsonl. Raises Invalid if it is absent or broken."""
    try:
        lines = [GoldenLine(**json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, ValueError, TypeError) as error:
        raise Invalid(f"{path.name} cannot be read: {error}") from error
    if not lines:
        raise Invalid(f"{path.name} is empty")
    return lines


def compare_with_golden(base_url: str, key: str, golden_path: Path) -> GoldenResult:
    """Ask the engine at `base_url` every golden prompt, greedily, and compare token by token.

    A prompt is followed up to the first token where the engine chose otherwise (afterwards its context is another). There the
    reference's token is looked up among the engine's alternatives, and counts as infinitely far if it is not among them; from
    an engine that names no alternatives its own token's log-probability is taken, which is as near only in a near tie.
    Raises Unavailable if the engine does not answer, Invalid if it refuses or its answers hold no log-probabilities.
    """
    differences: list[float] = []
    chosen = 0
    prompts_equal = True
    with httpx.Client(
        base_url=base_url,
        timeout=TIMEOUT_S,
        trust_env=False,
        verify=False,
        headers={"Connection": "close", "Authorization": f"Bearer {key}"},
    ) as client:
        for line in read_golden(golden_path):
            said = _ask(client, line)
            prompts_equal = prompts_equal and said.prompt_tokens == len(line.prompt_ids)
            for at, step in zip(said.places, said.steps, strict=False):
                token = line.token_ids[at]
                if step.token != token:
                    if said.alternatives:
                        differences += _difference_at(client, line, at)
                    else:
                        differences.append(abs(step.logprob - line.logprobs[at]))
                    break
                differences.append(abs(step.logprob - line.logprobs[at]))
                chosen += 1
    return GoldenResult(
        max_difference=max(differences, default=math.inf),
        mean_difference=sum(differences) / len(differences) if differences else math.inf,
        tokens=len(differences),
        argmax_equal=chosen,
        prompt_tokens_equal=prompts_equal,
    )


class _Step(Struct, frozen=True):
    """One token that an engine chose, and its log-probability."""

    token: int
    logprob: float


class _Answer(Struct, frozen=True):
    """`places`: where in the reference's answer the steps stand, if the engine chose alike."""

    prompt_tokens: int
    steps: list[_Step]
    places: list[int]
    alternatives: bool  # whether the engine can be asked for the log-probabilities of tokens it did not choose


def _ask(client: httpx.Client, line: GoldenLine) -> _Answer:
    count = len(line.token_ids)
    body = {
        "model": "golden",  # LightLLM wants some name
        "messages": [{"role": "user", "content": line.prompt}],
        "max_tokens": count,
        "temperature": 0,
        "logprobs": True,
    }
    reply = _post(client, "/v1/chat/completions", body)
    prompt_tokens = int(reply["usage"]["prompt_tokens"])
    logprobs = reply["choices"][0].get("logprobs")
    if logprobs is not None:
        # llama.cpp says nothing of a token that leaves a character unfinished, as most of a Chinese answer's do.
        places = [at for at in range(count) if line.whole[at]]
        steps = [_Step(step["id"], step["logprob"]) for step in logprobs.get("content") or []]
        return _Answer(prompt_tokens, steps, places, alternatives=True)
    # LightLLM's chat endpoint gives no log-probabilities; its own endpoint does.
    parameters = {"max_new_tokens": count, "do_sample": False, "return_details": True}
    reply = _post(client, "/generate", {"inputs": line.prompt_ids, "parameters": parameters})
    if not reply.get("tokens"):
        raise Invalid("the engine's answers hold no log-probabilities")
    steps = [_Step(token["id"], token["logprob"]) for token in reply["tokens"]]
    return _Answer(prompt_tokens, steps, list(range(count)), alternatives=False)


def _difference_at(client: httpx.Client, line: GoldenLine, at: int) -> list[float]:
    """How far the engine is at one token, after exactly the reference's own tokens; empty where it does not say."""
    body = {
        "prompt": line.prompt_ids + line.token_ids[:at],
        "n_predict": 1,
        "n_probs": ALTERNATIVES,
        "temperature": 0,
    }
    found = _post(client, "/completion", body).get("completion_probabilities") or []
    if not found:
        return []
    known = {step["id"]: step["logprob"] for step in found[0]["top_logprobs"]}
    return [abs(known.get(line.token_ids[at], -math.inf) - line.logprobs[at])]


def _post(client: httpx.Client, path: str, body: dict[str, Any]) -> dict[str, Any]:
    try:
        answer = client.post(path, json=body)
    except httpx.HTTPError as error:
        raise Unavailable(f"the engine does not answer golden prompts: {type(error).__name__}") from error
    if answer.status_code >= 500 or answer.status_code == httpx.codes.TOO_MANY_REQUESTS:
        raise Unavailable(f"the engine answers golden prompts with {answer.status_code}")
    if answer.status_code != httpx.codes.OK:
        raise Invalid(f"the engine refuses golden prompts with {answer.status_code}")
    reply: dict[str, Any] = answer.json()
    return reply
