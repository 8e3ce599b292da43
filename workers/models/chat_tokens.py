"""A model's tokenizer and chat template without transformers, which takes torch with it: to know how long a row is, seconds before
anything is trained."""

import json
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from jinja2 import TemplateError
from jinja2.ext import loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment
from tokenizers import AddedToken, Tokenizer

from streams.errors import Invalid
from workers.models.tokens import chat_template, token_text, tokenizer_settings

_NAMED = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")


class ChatTokens:
    """As much of transformers' interface as rows are encoded by (`workers.trainer.rows`), and the same tokens."""

    def __init__(self, model_dir: Path) -> None:
        """Raises Invalid if the folder has no tokenizer.json, no chat template that can be read, or no end mark."""
        path = model_dir / "tokenizer.json"
        if not path.is_file():
            raise Invalid(f"{model_dir.name} has no tokenizer.json")
        self.name_or_path = str(model_dir)
        self._tokenizer = Tokenizer.from_file(str(path))
        settings = tokenizer_settings(model_dir)
        self._named = {name: text for name in _NAMED if (text := token_text(settings, name)) is not None}
        end = self._tokenizer.token_to_id(self._named.get("eos_token", ""))
        if end is None:
            raise Invalid(f"{model_dir.name}: the tokenizer has no end mark")
        self.eos_token_id: int = end
        try:
            self._template = _environment().from_string(chat_template(model_dir))
        except TemplateError as error:
            raise Invalid(f"{model_dir.name}: the chat template cannot be read ({type(error).__name__})") from None

    @property
    def added_tokens_decoder(self) -> dict[int, AddedToken]:
        found: dict[int, AddedToken] = self._tokenizer.get_added_tokens_decoder()
        return found

    def __call__(self, text: str, add_special_tokens: bool) -> dict[str, list[int]]:
        return {"input_ids": self._tokenizer.encode(text, add_special_tokens=add_special_tokens).ids}

    def apply_chat_template(
        self, messages: Sequence[dict[str, str]], tokenize: bool, add_generation_prompt: bool
    ) -> str:
        """Raises Invalid when the template refuses the messages."""
        assert not tokenize
        try:
            return self._template.render(messages=messages, add_generation_prompt=add_generation_prompt, **self._named)
        except TemplateError as error:
            raise Invalid(f"the chat template refuses the messages ({type(error).__name__})") from None


def _environment() -> ImmutableSandboxedEnvironment:
    """The one that chat templates are written for: that of transformers' `apply_chat_template`."""

    def refuse(message: str) -> None:
        raise TemplateError(message)

    def tojson(value: Any, ensure_ascii: bool = False, indent: int | None = None, **more: Any) -> str:
        return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, **more)

    found = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
    found.filters["tojson"] = tojson
    found.globals["raise_exception"] = refuse
    found.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    return found
