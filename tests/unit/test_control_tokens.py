"""What people write is never read as a control token: by one function and one list, at the door, in training and in the exam."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.answering import Answering, Leavers
from api.chat_request import parse_chat
from api.metrics import Metrics
from api.routing import Pin, Route, Routes, Served
from streams.control_tokens import JOINER, escape_control_tokens
from tests.base_model import base_model
from tests.engine_server import EngineServer
from tests.unit import trainer_tiny as tiny
from workers.evaluator.opencompass import Endpoint, Exam, ExamItem, _write_questions
from workers.models.tokens import control_tokens
from workers.trainer.loaded import load_tokenizer
from workers.trainer.rows import control_texts, prompt_ids
from workers.trainer.spec import TrainingRow

__all__ = ["base_model"]
MORE = ["</s>", "[INST]", "<repo_name>", "<\uff5cend\u2581of\u2581sentence\uff5c>"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder whose tokenizer knows control tokens of several families."""
    folder = tiny.make_model(tmp_path_factory.mktemp("base") / "tiny")
    tokenizer = load_tokenizer(folder)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", *MORE]})
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def engine() -> Iterator[EngineServer]:
    engine = EngineServer()
    yield engine
    engine.stop()


def words_for_the_engine(words: str, folder: Path, engine: EngineServer) -> str:
    """What the door sends for `words` to an engine that serves the folder."""
    routes = Routes("postgresql://nowhere", limit=4)
    routes._routes = {"d": Route(0, "d@0", 1)}
    routes._engines = {
        "d@0": Served(
            "d@0", "d", 0, "ready", engine.base_url, "m", True, "llamacpp", list(control_tokens(folder)), 2048
        )
    }
    chat = parse_chat({"model": "d", "messages": [{"role": "user", "content": words}]}, "ann")
    pin: Pin = routes.pin("d", None, 1)
    answering = Answering(chat, pin, routes, str, Metrics(), may_restart=False, leavers=Leavers())
    assert list(answering.pieces())
    answering.close()
    return str(engine.requests[-1]["messages"][-1]["content"])


def words_in_training(words: str, folder: Path) -> str:
    tokenizer = load_tokenizer(folder)
    ids = prompt_ids(tokenizer, TrainingRow(prompt=words, answer=""), control_texts(tokenizer), 4096)
    assert ids is not None
    return str(tokenizer.decode(ids)).split("<|im_start|>user\n")[1].rsplit("<|im_end|>", 1)[0]


def words_in_the_exam(words: str, folder: Path, place: Path) -> str:
    item = ExamItem(id="a", set="general", question=words, answer="b", keys=("b",))
    _write_questions(place, 0, Exam(Endpoint((), "k", "m"), folder, [item]))
    return str(json.loads((place / "questions-0.jsonl").read_text())["question"])


def test_door_training_and_exam_say_the_same_of_what_people_write(
    folder: Path, engine: EngineServer, tmp_path: Path
) -> None:
    tokens = control_tokens(folder)
    assert {"<|im_start|>", "<|im_end|>", "<|endoftext|>", *MORE} == set(tokens)
    words = "say " + " and ".join(tokens) + " twice: " + "".join(tokens)
    escaped = escape_control_tokens(words, tokens)
    assert not any(token in escaped for token in tokens) and escaped.replace(JOINER, "") == words
    assert words_for_the_engine(words, folder, engine) == escaped
    assert words_in_training(words, folder) == escaped
    assert words_in_the_exam(words, folder, tmp_path) == escaped


def test_the_list_is_all_that_transformers_and_llamacpp_read_as_control_tokens(folder: Path, base_model: Path) -> None:
    for place in (folder, base_model):
        known = load_tokenizer(place).added_tokens_decoder.values()
        assert set(control_tokens(place)) == {str(token.content) for token in known if token.special}
    assert len(control_tokens(base_model)) == 17


def test_what_only_the_configuration_names_is_in_the_list(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text(json.dumps({"added_tokens": [{"content": "<think>", "special": False}]}))
    settings: dict[str, Any] = {
        "add_bos_token": True,
        "bos_token": {"content": "<s>"},
        "pad_token": None,
        "extra_special_tokens": ["[INST]"],
    }
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    assert control_tokens(tmp_path) == ("[INST]", "<s>")


@pytest.mark.parametrize("words", ["", "a < b | c > d", "x <| y", "<|>", "if a<|b then", "<|im_other|>"])
def test_words_without_control_tokens_stay_as_they_are(words: str) -> None:
    assert escape_control_tokens(words, ["<|im_end|>", "</s>"]) == words


@given(
    st.text(alphabet="<|>ab/", max_size=40), st.lists(st.text(alphabet="<|>ab/", min_size=1, max_size=4), max_size=5)
)
def test_escaping_leaves_no_token_and_twice_is_once(words: str, tokens: list[str]) -> None:
    once = escape_control_tokens(words, tokens)
    assert not any(token in once for token in tokens)
    assert escape_control_tokens(once, tokens) == once
