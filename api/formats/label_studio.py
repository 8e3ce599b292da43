"""Label Studio's tasks (its JSON export, and the tasks with predictions that it imports): `data`, and `annotations` of `result`.

A result names its control (`from_name`), its `type` and its `value`: of `choices` a list, of `textarea` a list of texts, of
`pairwise` which side was selected, of `ranker` the ids in their order. What an annotator skipped (`was_cancelled`) says nothing. Of
several annotations the last counts: who must agree is for the queue to say. Pure.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal
from xml.sax.saxutils import quoteattr

from msgspec import Struct

from api.formats import alpaca
from api.formats.turns import messages_of
from api.items import Example, ItemFault, LeftOut, read_example

NAME = "label-studio"
COLUMNS = frozenset(
    {
        *(
            "id",
            "inner_id",
            "data",
            "annotations",
            "predictions",
            "drafts",
            "meta",
            "project",
            "file_upload",
            "agreement",
        ),
        *("created_at", "updated_at", "updated_by", "comment_authors", "comment_count", "unresolved_comment_count"),
        *("last_comment_updated_at", "total_annotations", "cancelled_annotations", "total_predictions"),
    }
)
VERDICT, OUTPUT = "verdict", "output"  # the names of our own controls
ACCEPT, REJECT = "accept", "reject"
PROPOSAL = "proposal_id"
Json = dict[str, Any]
Verb = Literal["accepted", "edited", "rejected", "undecided"]
# Whatever a team calls the two choices in its own project.
_CHOICES = {
    **dict.fromkeys(("accept", "accepted", "good", "yes", "correct", "接受", "采纳", "正确"), ACCEPT),
    **dict.fromkeys(("reject", "rejected", "bad", "no", "wrong", "拒绝", "否决", "错误"), REJECT),
}


class Labelled(Struct, frozen=True):
    """What an annotator said of a task. `proposal_id`: of which proposal of ours it is; `item`: as it is to be learned."""

    verb: Verb
    proposal_id: str | None
    item: Example | None

    def __repr__(self) -> str:
        return f"Labelled({self.verb})"


def holds(row: Json) -> bool:
    return isinstance(row.get("data"), dict) and ("annotations" in row or "predictions" in row)


def read(row: Json) -> Json:
    """In Alpaca's fields, of a task that belongs to no proposal. Raises LeftOut for one that nobody accepted, ItemFault."""
    found = labelled(row)
    if found.proposal_id is not None:
        raise ItemFault("it is a verdict on a proposal: `noria examples labelled` reads it", f"data.{PROPOSAL}")
    if found.item is None or found.verb in ("rejected", "undecided"):
        raise LeftOut("rejected by its annotator" if found.verb == "rejected" else "nobody has annotated it")
    return alpaca.row_of(found.item)


def labelled(row: Json) -> Labelled:
    """A text that an annotator wrote is the answer; else a choice says whether the one of the data is. Raises ItemFault."""
    data = _data(row)
    proposal_id = data.get(PROPOSAL)
    if proposal_id is not None and not isinstance(proposal_id, str):
        raise ItemFault("it must be a text", f"data.{PROPOSAL}")
    said = _said(row)
    if said is None:
        return Labelled("undecided", proposal_id, None)
    choice = next((one for one in map(_choice, said) if one is not None), None)
    if choice == REJECT:
        return Labelled("rejected", proposal_id, None)
    written = next((one for one in map(_written, said) if one), None)
    if written is None and choice is None:
        raise ItemFault("it holds neither a choice (accept, reject) nor a text", "annotations")
    before = data.get("output", "")
    output = written or before
    fields = {name: data[name] for name in alpaca.FIELDS if name in data} | {"output": output}
    if "instruction" not in fields and "input" not in fields:
        asked = next((data[name] for name in ("prompt", "question", "text") if isinstance(data.get(name), str)), "")
        fields["instruction"] = asked
    item = read_example(fields).item
    changed = isinstance(before, str) and before.strip() != item.output.strip()
    return Labelled("edited" if changed else "accepted", proposal_id, item)


def preference(row: Json) -> Json:
    """A row as `noria preferences import` reads it: `prompt`, and its answers, the best first. Raises LeftOut, ItemFault."""
    data, said = _data(row), _said(row)
    if said is None:
        raise LeftOut("nobody has annotated it")
    answers = next((one for one in (_answers(result, data) for result in said) if one), None)
    if answers is None:
        raise ItemFault("it holds neither a pairwise choice nor a ranking", "annotations")
    asked = next((data[name] for name in ("prompt", "instruction", "question") if data.get(name)), None)
    if not isinstance(asked, str):
        raise ItemFault("it must have a prompt, an instruction or a question", "data")
    return {"prompt": asked, "ranked": answers}


def holds_preference(row: Any) -> bool:
    """Whether an annotator compared answers in it."""
    return isinstance(row, dict) and holds(row) and any(r.get("type") in _COMPARED for r in _said(row) or ())


def task_of(row: Mapping[str, Any]) -> Json:
    """A task for a proposal as the door shows it: its fields as data, its answer as a prediction that the annotator mends."""
    data = {name: row.get(name) or "" for name in ("instruction", "input", "output", "system")}
    asked = "\n".join(
        message["content"] for message in messages_of(read_example(data).item) if message["role"] == "user"
    )
    known = {PROPOSAL: row["proposal_id"], "prompt": asked, "builder": row["builder"]}
    result = {"from_name": OUTPUT, "to_name": "prompt", "type": "textarea", "value": {"text": [data["output"]]}}
    predicted = {"model_version": row["builder"], "result": [result]}
    return {"data": data | known, "predictions": [predicted]}


def tasks_of(rows: Iterable[Mapping[str, Any]]) -> list[Json]:
    return [task_of(row) for row in rows]


def config_of(title: str) -> str:
    """The labelling interface of these tasks: what is asked, the answer to mend, and a verdict."""
    return (
        "<View>\n"
        f"  <Header value={quoteattr(title)}/>\n"
        '  <Text name="prompt" value="$prompt"/>\n'
        f'  <TextArea name="{OUTPUT}" toName="prompt" rows="6" maxSubmissions="1" editable="true"/>\n'
        f'  <Choices name="{VERDICT}" toName="prompt" choice="single" required="true">\n'
        f'    <Choice value="{ACCEPT}"/>\n    <Choice value="{REJECT}"/>\n'
        "  </Choices>\n"
        "</View>\n"
    )


def _data(row: Json) -> Json:
    data = row.get("data")
    if not isinstance(data, dict):
        raise ItemFault("it must be a JSON object", "data")
    return data


def _said(row: Json) -> list[Json] | None:
    """The results of the last annotation that was not skipped; None: there is none. Raises ItemFault."""
    annotations = row.get("annotations")
    if annotations is None:
        return None
    if not isinstance(annotations, list):
        raise ItemFault("it must be a list", "annotations")
    found: list[Json] | None = None
    for number, one in enumerate(annotations):
        results = one.get("result") if isinstance(one, dict) else None
        if not isinstance(results, list) or not all(
            isinstance(result, dict) and isinstance(result.get("value"), dict) for result in results
        ):
            raise ItemFault("it must have a list of results, each with a value", f"annotations[{number}].result")
        if not one.get("was_cancelled") and results:
            found = results
    return found


def _choice(result: Json) -> str | None:
    choices = result["value"].get("choices")
    if result.get("type") != "choices" or not isinstance(choices, list):
        return None
    return next((_CHOICES[str(c).strip().lower()] for c in choices if str(c).strip().lower() in _CHOICES), None)


def _written(result: Json) -> str | None:
    text = result["value"].get("text")
    if result.get("type") != "textarea":
        return None
    lines = text if isinstance(text, list) else [text]
    return "\n".join(line for line in lines if isinstance(line, str)).strip() or None


def _answers(result: Json, data: Json) -> list[str] | None:
    compared = _COMPARED.get(str(result.get("type")))
    return None if compared is None else compared(result, data)


def _pairwise(result: Json, data: Json) -> list[str]:
    """Label Studio names the selected side, and its config which field is which; the fields are called so in its templates."""
    side = result["value"].get("selected")
    names = next((pair for pair in _SIDES if all(isinstance(data.get(name), str) for name in pair)), None)
    if side not in ("left", "right") or names is None:
        sides = ", ".join(" and ".join(pair) for pair in _SIDES)
        raise ItemFault(f"a pairwise choice needs `selected` and two answers: {sides}", "data")
    left, right = (data[name] for name in names)
    return [left, right] if side == "left" else [right, left]


def _ranker(result: Json, data: Json) -> list[str]:
    """Of a plain ranker; of one with buckets, what lies in them in their order, where there is one bucket."""
    ranked = result["value"].get("ranker")
    if isinstance(ranked, dict) and len(ranked) == 1:
        (ranked,) = ranked.values()
    items = next((value for value in data.values() if _is_items(value)), None)
    if not isinstance(ranked, list) or items is None:
        raise ItemFault("a ranking needs its ids, and the items that these name", "data")
    texts = {str(item["id"]): str(item.get("body") or item.get("title") or "") for item in items}
    unknown = [str(one) for one in ranked if str(one) not in texts]
    if unknown:
        raise ItemFault("it ranks an id that no item has", "annotations")
    return [texts[str(one)] for one in ranked]


def _is_items(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(one, dict) and "id" in one for one in value)


_SIDES: Sequence[tuple[str, str]] = (
    ("answer1", "answer2"),
    ("text1", "text2"),
    ("response1", "response2"),
    ("left", "right"),
    ("chosen", "rejected"),
)
_COMPARED = {"pairwise": _pairwise, "ranker": _ranker}
