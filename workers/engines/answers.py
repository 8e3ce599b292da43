"""The answers of the transformers engine: a model directory loaded, and its tokens drawn one after another, for several callers in
turn."""

import copy
import threading
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from msgspec import Struct
from torch import Tensor

from streams.errors import Invalid
from workers.engines.drawing import Asked, Drawer
from workers.models.loaded import has_adapter, load_model
from workers.models.tokens import token_bytes

READ_TOKENS = 64  # of a prompt at a time: nobody else gets a token meanwhile, and a caller who has left is not noticed
LOOK_S = 0.1  # how often one who waits for a place is looked after

Gone = Callable[[], bool]


class Left(Exception):
    """Whoever asked has gone."""


class Token(Struct, frozen=True):
    """One token of an answer, its natural log-probability by the model alone, and the likeliest in its place."""

    id: int
    logprob: float
    likeliest: tuple[tuple[int, float], ...] = ()


class Answerer:
    """A model that answers `slots` callers at once, a token each in turn; more wait."""

    def __init__(self, model_dir: Path, slots: int, threads: int) -> None:
        """Raises Invalid for an adapter of a kind that cannot be served."""
        from transformers import AutoTokenizer

        torch.set_num_threads(threads)
        loaded = load_model(model_dir).to("cuda" if torch.cuda.is_available() else "cpu")
        self._prefix: Any = None  # the keys and values that stand before every prompt
        self._model = loaded
        if has_adapter(model_dir):
            config = loaded.active_peft_config
            if config.is_prompt_learning:
                if config.peft_type != "PREFIX_TUNING":
                    raise Invalid(f"an adapter of the kind {config.peft_type} cannot be served; PREFIX_TUNING can")
                with torch.inference_mode():
                    self._prefix = loaded.get_prompt(batch_size=1)
            self._model = loaded.get_base_model()
        self._tokenizer: Any = AutoTokenizer.from_pretrained(model_dir, local_files_only=True)
        self._bytes = token_bytes(model_dir)
        ends = self._model.generation_config.eos_token_id
        self.ends = frozenset(ends if isinstance(ends, list) else [ends])
        self.vocabulary = int(self._model.get_output_embeddings().weight.shape[0])
        self._slots = threading.BoundedSemaphore(slots)
        self._turns = ThreadPoolExecutor(1, "model")  # whoever has waited longest comes first

    def prompt_of(self, messages: list[dict[str, Any]]) -> list[int]:
        """The messages in the model's chat template. Raises Invalid when that refuses them."""
        from jinja2 import TemplateError

        try:
            found: list[int] = self._tokenizer.apply_chat_template(
                messages, add_generation_prompt=True, return_dict=False
            )
        except (TemplateError, TypeError, KeyError, ValueError) as error:
            raise Invalid(f"the chat template refuses the messages ({type(error).__name__})") from None
        return found

    def text_of(self, tokens: list[int]) -> str:
        found: str = self._tokenizer.decode(tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return found

    def bytes_of_token(self, token: int) -> bytes:
        return self._bytes.get(token, b"")

    def tokens(self, prompt: list[int], asked: Asked, most: int, gone: Gone) -> Generator[Token, None, None]:
        """At most `most` tokens; one that ends the answer is the last. Raises Left once `gone` says so."""
        drawer = Drawer(asked, prompt, self.vocabulary)
        told = asked.top_logprobs or 0
        with self._place(gone):
            cache, scores = self._read(prompt, gone)
            for number in range(most):
                if gone():
                    raise Left
                drawn = drawer.draw(scores)
                yield _token(scores, drawn, told)
                if drawn in self.ends or number + 1 == most:
                    return
                scores = self._next([drawn], cache)

    def likeliest(self, prompt: list[int], count: int, gone: Gone) -> tuple[tuple[int, float], ...]:
        """What may come next, with its log-probability, the likeliest first."""
        with self._place(gone):
            _, scores = self._read(prompt, gone)
        return _likeliest(scores.log_softmax(-1), count)

    @contextmanager
    def _place(self, gone: Gone) -> Iterator[None]:
        while not self._slots.acquire(timeout=LOOK_S):
            if gone():
                raise Left
        try:
            yield
        finally:
            self._slots.release()

    def _read(self, prompt: list[int], gone: Gone) -> tuple[Any, Tensor]:
        """The prompt's keys and values, and the scores of what comes next."""
        from transformers import DynamicCache

        cache: Any = (
            copy.deepcopy(self._prefix) if self._prefix is not None else DynamicCache(config=self._model.config)
        )
        scores = torch.empty(0)
        for begin in range(0, len(prompt), READ_TOKENS):
            if gone():
                raise Left
            scores = self._next(prompt[begin : begin + READ_TOKENS], cache)
        return cache, scores

    def _next(self, tokens: list[int], cache: Any) -> Tensor:
        return self._turns.submit(self._forward, tokens, cache).result()

    @torch.inference_mode()
    def _forward(self, tokens: list[int], cache: Any) -> Tensor:
        read = torch.tensor([tokens], device=self._model.device)
        out = self._model(input_ids=read, past_key_values=cache, use_cache=True, logits_to_keep=1)
        found: Tensor = out.logits[0, -1].float().cpu()
        return found


def _token(scores: Tensor, drawn: int, told: int) -> Token:
    logprobs = scores.log_softmax(-1)
    return Token(drawn, float(logprobs[drawn]), _likeliest(logprobs, told))


def _likeliest(logprobs: Tensor, count: int) -> tuple[tuple[int, float], ...]:
    values, tokens = logprobs.topk(min(count, len(logprobs)))
    return tuple(zip(tokens.tolist(), values.tolist(), strict=True))
