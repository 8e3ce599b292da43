"""What a proposal was made of, in words: for the queue, the data room and the command line."""

from api.client import Json
from api.ui.markup import safe
from api.ui.words import Lang, say


def place_and_words(source: Json) -> tuple[str, str | None]:
    """Where it stands, and what it says; None where it is gone."""
    kind = source["kind"]
    if source.get("gone"):
        return "", None
    if kind == "passage":
        return f"{source['title']} {source['place']}".strip(), str(source["text"]).strip()
    if kind == "triple":
        return "", " — ".join(source["triple"].values())
    if kind != "seed":
        return "", str(source.get("text", ""))
    seed = source["seed"]
    if "major" not in seed:
        return "", str(seed.get("instruction") or seed["question"])
    major = seed["major"]
    return f"{major['law']} {major['article']}", "\n".join((major["rule"], seed["minor"], seed["conclusion"]["result"]))


def draw_source(source: Json, lang: Lang) -> str:
    place, words = place_and_words(source)
    label = " · ".join(part for part in (say(lang, f"kind_{source['kind']}"), place) if part)
    said = say(lang, "source_removed") if words is None else words
    return f'<div class="n-label">{safe(label)}</div><div class="n-text">{safe(said)}</div>'
