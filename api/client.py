"""The door, as a client sees it: what the command line and the page use. Speaks HTTP only, and knows no table and no topic.

A refusal is `Refused` (with the door's own words), a door that does not answer or cannot at present is `Unavailable`.
"""

import os
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote, urlencode

import httpx
import msgspec
from msgspec import Struct

from streams.errors import Invalid, Unavailable
from streams.settings import home_of
from streams.structs import learn_structs

Json = dict[str, Any]
Rating = Literal["up", "down"] | int
TIMEOUT_S = 30.0
ANSWER_TIMEOUT_S = 180.0  # a long answer of a small machine's engine
MAP_TIMEOUT_S = 130.0  # of a training set that was never embedded
DOCUMENT_TIMEOUT_S = 900.0  # one of a hundred thousand passages
_ATTEMPTS = 3
BROKE_OFF = "engine_broke_off"


class Refused(Invalid):
    """The door understood and said no. `param` is the field that it named, if it named one."""

    def __init__(self, status: int, message: str, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.param = param
        self.code = code


# All are kept: a connection that the pool thinks one too many may be closed while another thread has begun to use it, which then
# waits for its whole timeout (seen with 80 threads and the usual 20).
LIMITS = httpx.Limits(max_connections=256, max_keepalive_connections=256, keepalive_expiry=60.0)
BUSY = ("queue_full", "rate_limit_exceeded")  # an engine has as much to do as it takes, or as one key may ask of it


class NotNow(Unavailable):
    """The door answered that it cannot at present. `code` says what is missing (`no_engine`, …), if it said so."""

    def __init__(self, message: str, code: str | None = None) -> None:
        super().__init__(message)
        self.code = code


class Address(Struct, frozen=True):
    """Where the door is, and the key that opens it (None: whatever needs a key is refused)."""

    url: str
    key: str | None


class Piece(Struct, frozen=True):
    """More text of the draft `index`."""

    index: int
    text: str


class Source(Struct, frozen=True):
    """A memory that an answer was given with: a correction, said at `said_at` and then `age_s` old; or a passage, of the document
    `title` at `place`. `score`: how sure the memory was of it, from 0 to 1."""

    id: str
    kind: str
    score: float
    said_at: str = ""
    age_s: float = 0.0
    document_id: str = ""
    title: str = ""
    place: str = ""


class Answer(Struct, frozen=True):
    """The end of an answer: who gave it, and where it stands on the log. `release` is `domain@number`; `messages_left_out`: how
    many of the oldest its model's window did not hold. `recall`: off, recalled (`recalled`, the best first) or unavailable;
    `declined`: nothing fitted, and no model was asked."""

    conversation_id: str
    release: str
    reply_ids: tuple[str, ...]
    position: str
    messages_left_out: int = 0
    recall: str = "off"
    recalled: tuple[Source, ...] = ()
    declined: bool = False


class Given(Struct, frozen=True):
    """Feedback that was recorded. `duplicate`: it had been recorded before, under the same idempotency key."""

    event_id: str
    position: str
    duplicate: bool = False


class _Error(Struct):
    message: str = "the door said no, without a reason"
    param: str | None = None
    code: str | None = None


class _ErrorBody(Struct):
    error: _Error


class _Delta(Struct):
    content: str | None = None


class _Choice(Struct):
    index: int
    delta: _Delta


class _Chunk(Struct):
    choices: list[_Choice] = []
    metadata: Answer | None = None
    error: _Error | None = None


def address_of(environ: Mapping[str, str]) -> Address:
    """The door's address and key: NORIA_DOOR and NORIA_KEY, else what `noria up` wrote under the home.

    Raises Unavailable when neither says where the door is.
    """
    home = home_of(environ)
    url = environ.get("NORIA_DOOR") or _written(home, "door")
    if not url:
        raise Unavailable("noria is not running here (start it with `noria up`, or set NORIA_DOOR)")
    key = environ.get("NORIA_KEY")
    local = home / "keys" / "local.key"
    if not key:
        try:
            key = local.read_text().strip() if local.exists() else None
        except OSError as error:
            raise Invalid(f"the key file {local.name} cannot be read: {error.strerror}") from error
    return Address(url.rstrip("/"), key or None)


def page_url_of(environ: Mapping[str, str]) -> str:
    """Where the page is to be served: NORIA_PAGE, else what `noria up` wrote, else port 7860 of loopback."""
    return environ.get("NORIA_PAGE") or _written(home_of(environ), "page") or "http://127.0.0.1:7860"


def _written(home: Path, name: str) -> str:
    """An address that `noria up` wrote under the home; empty when there is none."""
    written = home / "run" / "noria.json"
    if not written.exists():
        return ""
    try:
        found = msgspec.json.decode(written.read_bytes(), type=dict[str, Any])
    except (OSError, msgspec.DecodeError) as error:
        raise Unavailable(f"{written.name} under the home cannot be read: {error}") from error
    return str(found.get(name) or "")


class Door:
    """One door. Safe to use from several threads; `close` it, or use it as a context manager."""

    def __init__(
        self, address: Address, transport: httpx.BaseTransport | None = None, http: httpx.Client | None = None
    ) -> None:
        self.url = address.url
        self._headers = {"Authorization": f"Bearer {address.key}"} if address.key else {}
        # trust_env off: a proxy of the machine has no business between a person and a door on loopback.
        self._http = http or httpx.Client(
            base_url=address.url,
            headers={"User-Agent": "noria"},
            timeout=httpx.Timeout(TIMEOUT_S, connect=5.0),
            limits=LIMITS,
            transport=transport,
            trust_env=False,
        )

    def acting(self, key: str) -> "Door":
        """The same door and the same connections, with another key; it is not closed apart."""
        return Door(Address(self.url, key), http=self._http)

    def __enter__(self) -> "Door":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._http.close()

    # what everything below is made of

    def get(self, path: str, **params: Any) -> Any:
        """What the door answers to a reading. `params` that are None are left out."""
        return self._send("GET", path, params={k: v for k, v in params.items() if v is not None})

    def send(self, method: str, path: str, body: Any, headers: Mapping[str, str] | None = None) -> Any:
        return self._send(method, path, content=msgspec.json.encode(body), headers=headers)

    # people

    def chat(
        self,
        model: str,
        messages: Sequence[Mapping[str, str]],
        *,
        person: str | None = None,
        conversation_id: str | None = None,
        drafts: int = 1,
        more: Mapping[str, Any] | None = None,
    ) -> Generator[Piece | Answer]:
        """Ask, and hand on the answer as it comes: pieces of text, then one `Answer`.

        `more` holds further fields of OpenAI's protocol (`temperature`, `max_tokens`, …). An answer that breaks off
        raises Unavailable; closing the generator closes the connection, which frees the engine.
        """
        body: Json = {"model": model, "messages": list(messages), "stream": True, "n": drafts, **(more or {})}
        if person is not None:
            body["user"] = person
        if conversation_id is not None:
            body["metadata"] = {"conversation_id": conversation_id}
        request = self._http.build_request(
            "POST",
            "/v1/chat/completions",
            content=msgspec.json.encode(body),
            headers={**self._headers, "Content-Type": "application/json"},
            timeout=httpx.Timeout(ANSWER_TIMEOUT_S, connect=5.0),
        )
        answer: Answer | None = None
        with _reaching(self.url):
            response = self._http.send(request, stream=True)
            try:
                if response.status_code >= 400:
                    response.read()
                    raise _refusal(response)
                for data in sse(response.iter_lines()):
                    if data == "[DONE]":
                        break
                    chunk = _decode(data, _Chunk)
                    if chunk.error is not None:
                        raise NotNow(chunk.error.message, chunk.error.code or BROKE_OFF)
                    for choice in chunk.choices:
                        if choice.delta.content:
                            yield Piece(choice.index, choice.delta.content)
                    answer = chunk.metadata or answer
            finally:
                response.close()
        if answer is None:
            raise NotNow("the answer broke off before its end; it does not count", BROKE_OFF)
        yield answer

    def feedback(
        self,
        reply_id: str,
        *,
        person: str | None = None,
        rating: Rating | None = None,
        pick: bool | None = None,
        ranking: Sequence[Sequence[str]] | None = None,
        correction: str | None = None,
        misfit: str | None = None,
        comment: str | None = None,
        idempotency_key: str | None = None,
    ) -> Given:
        """Say what a person thinks of a reply of theirs. `ranking`: ids of drafts of its prompt, the best first, those that are
        equally good together; `misfit`: the id of a memory that did not fit it. Raises Refused."""
        said: Json = {
            "reply_id": reply_id,
            "user": person,
            "rating": rating,
            "pick": pick,
            "ranking": ranking,
            "correction": correction,
            "misfit": misfit,
            "comment": comment,
        }
        body = {name: value for name, value in said.items() if value is not None}
        headers = {"Idempotency-Key": idempotency_key} if idempotency_key else None
        return msgspec.convert(self.send("POST", "/v1/feedback", body, headers), Given)

    def recalled(self, reply_id: str) -> Json:
        """What was recalled for a reply, as it stands now: {"recall", "data": with their words; `state` says what is gone}"""
        return _object(self.get(f"/v1/replies/{_part(reply_id)}/recalled"))

    def corrections(self, person: str, limit: int | None = None) -> Json:
        """What became of the corrections of a person: {"data": the newest first, "total": how many there are}"""
        return _object(self.get(f"/v1/people/{_part(person)}/corrections", limit=limit))

    def erase(self, person: str) -> Json:
        return _object(self.send("POST", f"/v1/people/{_part(person)}/erase", {}))

    # keys, and the page's sessions

    def me(self) -> Json:
        """Whose key it is: {"name", "role", "person", "names_persons", "domains"}."""
        return _object(self.get("/v1/me"))

    def list_keys(self) -> list[Json]:
        return _data(self.get("/v1/keys"))

    def create_key(self, body: Json) -> Json:
        """A key's row, and under `key` the key itself: it is never shown again."""
        return _object(self.send("POST", "/v1/keys", body))

    def revoke_key(self, named: str) -> Json:
        return _object(self.send("POST", f"/v1/keys/{_part(named)}/revoke", {}))

    def page_link(self, page_url: str) -> str:
        """An address that opens the page as this key, once. What follows the # stays in the browser: no server's log holds it."""
        made = _object(self.send("POST", "/v1/sessions/link", {}))
        return f"{page_url}/login#once={made['token']}"

    def begin_session(self) -> Json:
        """{"token", "expires_in_s"}: what a browser holds in the place of this door's key, which may be one that works once."""
        return _object(self.send("POST", "/v1/sessions", {}))

    def end_session(self) -> None:
        self.send("POST", "/v1/sessions/end", {})

    # domains

    def models(self) -> list[Json]:
        return _data(self.get("/v1/models"))

    def domains(self) -> list[Json]:
        return _data(self.get("/v1/domains"))

    def domain(self, domain: str) -> Json:
        return _object(self.get(f"/v1/domains/{_part(domain)}"))

    def create_domain(self, body: Json) -> Json:
        return _object(self.send("POST", "/v1/domains", body))

    def retire_domain(self, domain: str) -> Json:
        return _object(self.send("POST", f"/v1/domains/{_part(domain)}/retire", {}))

    def policy(self, domain: str) -> Json:
        return _object(self.get(f"/v1/domains/{_part(domain)}/policy"))

    def set_policy(self, domain: str, policy: Json) -> Json:
        return _object(self.send("PUT", f"/v1/domains/{_part(domain)}/policy", policy))

    def status(self, domain: str) -> Json:
        return _object(self.get(f"/v1/domains/{_part(domain)}/status"))

    def trouble(self) -> str | None:
        """Why the door records nothing until somebody acts, if that is so."""
        with _reaching(self.url):
            response = self._http.get("/readyz", headers=self._headers)
        said = _object(_decode(response.content, Any)).get("reason")
        return None if said is None else str(said)

    def add_exam(self, domain: str, items: Sequence[Json], import_id: str | None = None) -> Json:
        """`items` hold question, answer, keys and kind. What is there already is not added again."""
        path = f"/v1/domains/{_part(domain)}/exam"
        return _object(self.send("POST", _asked(path, {"import": import_id}), items))

    def exam(self, domain: str) -> Json:
        """{"data": questions in force, "erased": n, "retired": n}"""
        return self._all(f"/v1/domains/{_part(domain)}/exam")

    def import_examples(
        self, domain: str, items: Sequence[Json], person: str | None = None, import_id: str | None = None
    ) -> Json:
        """Training examples in Alpaca's fields, as said by `person`. What is there already is not added again."""
        path = f"/v1/domains/{_part(domain)}/examples"
        return _object(self.send("POST", _asked(path, {"user": person, "import": import_id}), items))

    def import_preferences(
        self, domain: str, items: Sequence[Json], person: str | None = None, import_id: str | None = None
    ) -> Json:
        """Rows of trl's or LLaMA-Factory's files of preferences, as said by `person`."""
        path = f"/v1/domains/{_part(domain)}/preferences"
        return _object(self.send("POST", _asked(path, {"user": person, "import": import_id}), items))

    def style_pairs(self, domain: str) -> Json:
        """Make pairs of the domain's drafts by its style guide."""
        return _object(self.send("POST", f"/v1/domains/{_part(domain)}/style/pairs", {}))

    def retire(self, domain: str, what: str, body: Json) -> Json:
        """Retire `items` or all of an `import`; `what` is the last part of the path. Doing it again changes
        nothing."""
        return _object(self.send("POST", f"/v1/domains/{_part(domain)}/{what}/retire", body))

    def examples(self, domain: str, with_origin: bool = False) -> Json:
        """{"data": Alpaca items in force, "erased": n, "retired": n}; with their origin each has `example_id` and `kind`, too."""
        return self._all(f"/v1/domains/{_part(domain)}/examples", origin="true" if with_origin else None)

    def preferences(self, domain: str, person_share: float | None = None) -> Json:
        """{"pairs": of people's own, in clear, "labels": answers good or bad, "held": {reason: n}}"""
        return _object(self.get(f"/v1/domains/{_part(domain)}/preferences", person_share=person_share))

    def add_document(self, domain: str, name: str, body: bytes, media_type: str = "application/octet-stream") -> Json:
        """Enter a file as a document: {"document_id", "passages", "known", "replaces", "position"}. The name, or `media_type`, says
        what it is. The same again changes nothing; another of that name takes its place."""
        path = _asked(f"/v1/domains/{_part(domain)}/documents", {"name": name})
        headers = {"Content-Type": media_type}
        return _object(self._send("POST", path, content=body, headers=headers, timeout=DOCUMENT_TIMEOUT_S))

    def documents(self, domain: str) -> Json:
        """{"data": documents in force, "erased": n, "retired": n}"""
        return self._all(f"/v1/domains/{_part(domain)}/documents")

    def document(self, domain: str, document_id: str) -> Json:
        """A document, and its passages under `data`."""
        path = f"/v1/domains/{_part(domain)}/documents/{_part(document_id)}"
        found = _object(self.get(path))
        while (since := found.pop("next")) is not None:
            page = _object(self.get(path, since=since))
            found["data"] += _data(page)
            found["next"] = page["next"]
        return found

    def first_documents(self, domain: str, most: int) -> Json:
        """{"data": the first documents in force, at most so many, "more": whether there may be others}"""
        found: list[Json] = []
        since: Any = 0
        while since is not None and len(found) < most:  # a page may be of versions that were replaced
            page = _object(self.get(f"/v1/domains/{_part(domain)}/documents", since=since, limit=most))
            found += _data(page)
            since = page["next"]
        return {"data": found[:most], "more": since is not None or len(found) > most}

    def passages(self, domain: str, document_id: str, since: int = 0, limit: int | None = None) -> Json:
        """A document with its passages from number `since` on under `data`, and under `next` the number of the one that follows."""
        path = f"/v1/domains/{_part(domain)}/documents/{_part(document_id)}"
        return _object(self.get(path, since=since, limit=limit))

    def remove_document(self, domain: str, document_id: str, reason: str | None = None) -> Json:
        path = f"/v1/domains/{_part(domain)}/documents/{_part(document_id)}"
        return _object(self._send("DELETE", _asked(path, {"reason": reason})))

    def _all(self, path: str, **params: Any) -> Json:
        """The pages of a list as one, their counts added up."""
        found: Json = {"data": [], "erased": 0, "retired": 0}
        since: Any = 0
        while since is not None:
            page = _object(self.get(path, since=since, **params))
            found["data"] += _data(page)
            for name in ("erased", "retired"):
                found[name] += page[name]
            since = page["next"]
        return found

    def would_recall(self, domain: str, question: str, *, most: int | None = None, least: float | None = None) -> Json:
        """What the domain's memory recalls for a question now, the best first: {"most", "least", "data": with their words}. What is
        None is as the policy says."""
        body = {"question": question, "most": most, "least": least}
        said = {name: value for name, value in body.items() if value is not None}
        return _object(self.send("POST", f"/v1/domains/{_part(domain)}/recall", said))

    # rounds and releases

    def start_round(
        self,
        domain: str,
        opening: bool = False,
        recipe: Json | None = None,
        from_base: bool = False,
        base: str | None = None,
    ) -> Json:
        """`recipe`: by which it trains, instead of the policy's. `from_base`: from the domain's base, on all that counts. `base`:
        so from the base of that name, to which the domain moves."""
        body: Json = {"opening": True} if opening else {}
        body |= ({} if recipe is None else {"recipe": recipe}) | ({"from_base": True} if from_base else {})
        body |= {} if base is None else {"base": base}
        return _object(self.send("POST", f"/v1/domains/{_part(domain)}/rounds", body))

    def rounds(self, domain: str | None = None, limit: int | None = None) -> list[Json]:
        return _data(self.get("/v1/rounds", domain=domain, limit=limit))

    def round(self, round_id: str) -> Json:
        return _object(self.get(f"/v1/rounds/{_part(round_id)}"))

    def snapshot(self, round_id: str) -> Json:
        """How the round's training set was chosen: {"selection": its steps, "counts": of candidates by step and reason, …}"""
        return _object(self.get(f"/v1/rounds/{_part(round_id)}/snapshot"))

    def snapshot_lines(self, round_id: str, candidate: str | None = None) -> list[Json]:
        """What became of each candidate, or of that one."""
        found, since = list[Json](), 0
        while since is not None:
            page = _object(self.get(f"/v1/rounds/{_part(round_id)}/snapshot/lines", since=since, candidate=candidate))
            found += _data(page)
            since = page["next"]
        return found

    def snapshot_page(self, round_id: str, since: int, limit: int, **filter: str) -> Json:
        """{"data": some lines, "next": where to go on, or None}. `filter`: `step`, and `kept` as true or false."""
        path = f"/v1/rounds/{_part(round_id)}/snapshot/lines"
        return _object(self.get(path, since=since, limit=limit, **filter))

    def snapshot_changes(self, round_id: str, since: str) -> list[Json]:
        """Which candidates fare otherwise than in the training set of the round `since`."""
        return _data(self.get(f"/v1/rounds/{_part(round_id)}/snapshot/changes", **{"from": since}))

    def snapshot_map(self, round_id: str) -> Json:
        """{"points": examples, with `x` and `y` from 0 to 1, what became of each and its words, "left_out": n}"""
        return _object(self._send("GET", f"/v1/rounds/{_part(round_id)}/snapshot/map", timeout=MAP_TIMEOUT_S))

    def snapshot_rows(self, round_id: str) -> Json:
        """{"data": Alpaca items with `example_id` and `role`, in clear, "erased": n}"""
        return self._all(f"/v1/rounds/{_part(round_id)}/snapshot/export")

    def cancel_round(self, round_id: str) -> Json:
        return _object(self.send("POST", f"/v1/rounds/{_part(round_id)}/cancel", {}))

    def card(self, round_id: str) -> Json:
        """How what a round made came to be, and what it scores."""
        return _object(self.get(f"/v1/rounds/{_part(round_id)}/card"))

    def rebuild_round(self, round_id: str) -> Json:
        return _object(self.send("POST", f"/v1/rounds/{_part(round_id)}/rebuild", {}))

    def releases(self, domain: str | None = None) -> list[Json]:
        return _data(self.get("/v1/releases", domain=domain))

    def roll_back(self, domain: str, to: int) -> Json:
        return _object(self.send("POST", f"/v1/domains/{_part(domain)}/rollback", {"to": to}))

    def bases(self) -> list[Json]:
        return _data(self.get("/v1/bases"))

    def base(self, base: str) -> Json:
        return _object(self.get(f"/v1/bases/{_part(base)}"))

    def add_base(self, model: str) -> Json:
        """Enter the base that lies under that digest: {"base", "model", "known", "position"}."""
        return _object(self.send("POST", "/v1/bases", {"model": model}))

    def compare(self, domain: str) -> Json:
        """Ask for a comparison: {"comparison_id", "known", "position"}. One that is under way is the one that is asked for."""
        return _object(self.send("POST", f"/v1/domains/{_part(domain)}/comparisons", {}))

    def comparisons(self, domain: str, limit: int | None = None, after: str | None = None) -> list[Json]:
        """The newest first; as they stand at the position `after`, or later."""
        return _data(self.get(f"/v1/domains/{_part(domain)}/comparisons", limit=limit, after=after))

    def compare_bases(self, domain: str, bases: Sequence[str]) -> Json:
        """As `compare`, of these bases and the domain's own."""
        return _object(self.send("POST", f"/v1/domains/{_part(domain)}/base-comparisons", {"bases": list(bases)}))

    def base_comparisons(self, domain: str, limit: int | None = None, after: str | None = None) -> list[Json]:
        return _data(self.get(f"/v1/domains/{_part(domain)}/base-comparisons", limit=limit, after=after))

    # material

    def add_triples(self, domain: str, items: list[Json], import_id: str) -> Json:
        path = f"/v1/domains/{_part(domain)}/triples"
        return _object(self.send("POST", _asked(path, {"import": import_id}), items))

    def add_seeds(self, domain: str, items: list[Json], import_id: str) -> Json:
        path = f"/v1/domains/{_part(domain)}/seeds"
        return _object(self.send("POST", _asked(path, {"import": import_id}), items))

    def triples(self, domain: str) -> Json:
        return self._all(f"/v1/domains/{_part(domain)}/triples")

    def seeds(self, domain: str) -> Json:
        return self._all(f"/v1/domains/{_part(domain)}/seeds")

    def build(self, domain: str, builder: str, most: int | None = None) -> Json:
        """Ask for a build: {"build_id", "known", "position"}. One that is under way is the one that is asked for."""
        body = {"builder": builder, "most": most}
        return _object(self.send("POST", f"/v1/domains/{_part(domain)}/builds", body))

    def builds(self, domain: str, limit: int | None = None, after: str | None = None) -> list[Json]:
        """The newest first; as they stand at the position `after`, or later."""
        return _data(self.get(f"/v1/domains/{_part(domain)}/builds", limit=limit, after=after))

    def shown_build(self, domain: str, build_id: str) -> Json:
        return _object(self.get(f"/v1/domains/{_part(domain)}/builds/{_part(build_id)}"))

    def undo_build(self, domain: str, build_id: str) -> Json:
        return _object(self.send("POST", f"/v1/domains/{_part(domain)}/builds/{_part(build_id)}/undo", {}))

    def proposals(
        self, domain: str, state: str = "proposed", build: str | None = None, limit: int = 100, since: int | None = None
    ) -> Json:
        """{"data", "erased", "next"}: the first of them, or those from `since` on."""
        path = f"/v1/domains/{_part(domain)}/proposals"
        return _object(self.get(path, state=state, build=build, limit=limit, since=since))

    def examples_table(
        self,
        domain: str,
        wanted: Mapping[str, str | None],
        limit: int,
        before: int | None = None,
        after: str | None = None,
    ) -> Json:
        """{"data": rows of examples and proposals, the newest first, "next": where to go on `before`, "searched", "stopped",
        "counts": of each source and state, on the first page}. `wanted`: state, source, person, brought, text; `after`: as it
        stands at that position, or later."""
        path = f"/v1/domains/{_part(domain)}/examples/table"
        return _object(self.get(path, limit=limit, before=before, after=after, **wanted))

    def example(self, domain: str, example_id: str) -> Json:
        """The story of an example, or of a proposal."""
        return _object(self.get(f"/v1/domains/{_part(domain)}/examples/{_part(example_id)}"))

    def decide_examples(self, domain: str, body: Json) -> Json:
        """`verb` (accept, reject, retire) on `ids`, or on all that a `filter` finds, which are `count`: {"accepted", "rejected",
        "retired", "known", "decision"}"""
        return _object(self.send("POST", f"/v1/domains/{_part(domain)}/examples/decide", body))

    def undo_decision(self, domain: str, decision: str) -> Json:
        """Take back all of a decision, or of an import."""
        return _object(self.send("POST", f"/v1/domains/{_part(domain)}/examples/undo", {"decision": decision}))

    def decide(self, domain: str, verdict: str, body: Json) -> Json:
        """`verdict`: accept or reject; of proposals by their ids, or of all of a build that nobody has decided on."""
        return _object(self.send("POST", f"/v1/domains/{_part(domain)}/proposals/{verdict}", body))

    # the queue

    def queues(self) -> list[Json]:
        """The domains whose queue this key may see: {"domain", "title", "live_release"}."""
        return _data(self.get("/v1/queues"))

    def queue(self, domain: str) -> Json:
        """{"waiting", "agreement": {"alpha", "items", "agreed"}}"""
        return _object(self.get(f"/v1/domains/{_part(domain)}/queue"))

    def next_in_queue(self, domain: str, person: str | None = None) -> Json | None:
        """What that person holds from now on; None: nothing waits for them."""
        path = f"/v1/domains/{_part(domain)}/queue/next"
        item: Json | None = _object(self.send("POST", path, _of(person)))["item"]
        return item

    def judge(self, domain: str, proposal_id: str, said: Json, person: str | None = None) -> Json:
        """`said`: {"verdict": accept, edit (with "edited") or reject}, or {"takes": the verdict of one of two who disagree}."""
        path = f"/v1/domains/{_part(domain)}/queue/{_part(proposal_id)}/judge"
        return _object(self.send("POST", path, said | _of(person)))

    def skip(self, domain: str, proposal_id: str, person: str | None = None) -> Json:
        path = f"/v1/domains/{_part(domain)}/queue/{_part(proposal_id)}/skip"
        return _object(self.send("POST", path, _of(person)))

    def take_back(self, domain: str, proposal_id: str, person: str | None = None) -> Json:
        """Undo the last verdict on it, which was that person's: {"taken_back": the verdict, "position"}"""
        path = f"/v1/domains/{_part(domain)}/queue/{_part(proposal_id)}/take-back"
        return _object(self.send("POST", path, _of(person)))

    def raise_concern(self, domain: str, proposals: Sequence[str], concern: str, reason: str = "") -> Json:
        """Put proposals forward in the queue: disputed, uncertain or hard."""
        body = {"proposals": list(proposals), "concern": concern, "reason": reason}
        return _object(self.send("POST", f"/v1/domains/{_part(domain)}/queue/raise", body))

    # the log

    def events(self, **params: Any) -> Json:
        """{"data": [{"position", "event"}], "next"}: the last events, or those `after` a cursor (`beginning`, a `next`)."""
        return _object(self.get("/v1/events", **params))

    def event(self, event_id: str) -> Json:
        return _object(self.get(f"/v1/events/{_part(event_id)}"))

    def follow(self, **params: Any) -> Generator[Json]:
        """Events as they come, for ever. Raises Unavailable when the door goes away."""
        asked = {k: v for k, v in params.items() if v is not None} | {"follow": 1}
        # The door says something every few seconds, if only that nothing has come.
        timeout = httpx.Timeout(60.0, connect=5.0)
        with (
            _reaching(self.url),
            self._http.stream("GET", "/v1/events", params=asked, headers=self._headers, timeout=timeout) as response,
        ):
            if response.status_code >= 400:
                response.read()
                raise _refusal(response)
            for data in sse(response.iter_lines()):
                yield _decode(data, Json)

    def quarantine(self, limit: int) -> Json:
        """{"data": what could not be read, the newest first, without its bytes, "count": how many there are, "stopped": where the
        stream stands still because it was too much, "skips": an operator's words that let it past}"""
        return _object(self.get("/v1/quarantine", limit=limit))

    def quarantined(self, place: str) -> Json:
        """One record that could not be read, with its bytes."""
        return _object(self.get(f"/v1/quarantine/{_part(place)}"))

    def skip_unreadable(self, partition: str, to: int | None = None) -> Json:
        """Let the stream past what cannot be read of a partition, up to and with offset `to` (None: the last that stopped it).
        Where it does not stand still, `to` comes back as None."""
        body = {"partition": partition} | ({"to": to} if to is not None else {})
        return _object(self.send("POST", "/v1/quarantine/skip", body))

    def _send(self, method: str, path: str, **more: Any) -> Any:
        headers = {**self._headers, **(more.pop("headers", None) or {})}
        if "content" in more:
            headers.setdefault("Content-Type", "application/json")
        # A reading may be asked again; what writes is not, unless its sender gave it an idempotency key.
        attempts = _ATTEMPTS if method == "GET" or "Idempotency-Key" in headers else 1
        while True:
            attempts -= 1
            try:
                with _reaching(self.url):
                    response = self._http.request(method, path, headers=headers, **more)
                break
            except Unavailable:
                if not attempts:
                    raise
        if response.status_code >= 400:
            raise _refusal(response)
        return _decode(response.content, Any)


def open_door(environ: Mapping[str, str] | None = None) -> Door:
    """The door that the environment names. Raises Unavailable when it names none."""
    return Door(address_of(os.environ if environ is None else environ))


def sse(lines: Iterator[str]) -> Iterator[str]:
    """The `data` of each server-sent event; comments and other fields are passed over."""
    data: list[str] = []
    for line in lines:
        if not line:
            if data:
                yield "\n".join(data)
            data = []
        elif line.startswith("data:"):
            data.append(line[5:].removeprefix(" "))
    if data:
        yield "\n".join(data)


@contextmanager
def _reaching(url: str) -> Generator[None]:
    """A door that cannot be reached is Unavailable, whatever the library calls it."""
    try:
        yield
    except httpx.InvalidURL as error:
        raise Invalid(f"{url} is not an address: {error}") from error
    except httpx.ConnectError as error:
        raise Unavailable(f"the door at {url} does not answer; is `noria up` running?") from error
    except httpx.TimeoutException as error:
        raise Unavailable(f"the door at {url} took too long") from error
    except httpx.HTTPError as error:
        raise Unavailable(f"the connection to the door at {url} broke: {type(error).__name__}") from error


def _refusal(response: httpx.Response) -> Refused | Unavailable:
    try:
        said = msgspec.json.decode(response.content, type=_ErrorBody).error
    except msgspec.DecodeError:
        said = _Error(f"the door answered {response.status_code} in words that are not its own")
    if response.status_code in (502, 503, 504) or said.code in BUSY:
        return NotNow(said.message, said.code)
    return Refused(response.status_code, said.message, said.param, said.code)


def _decode(raw: str | bytes, kind: Any) -> Any:
    try:
        return msgspec.json.decode(raw, type=kind)
    except msgspec.DecodeError as error:
        raise Unavailable(f"the door's answer cannot be read: {error}") from error


def _data(body: Any) -> list[Json]:
    found = body.get("data") if isinstance(body, dict) else body
    if not isinstance(found, list):
        raise Unavailable("the door's answer cannot be read: a list was expected")
    return found


def _object(body: Any) -> Json:
    if not isinstance(body, dict):
        raise Unavailable("the door's answer cannot be read: an object was expected")
    return body


def _asked(path: str, params: Mapping[str, str | None]) -> str:
    """`path` with a query string of those `params` that are not None."""
    given = {name: value for name, value in params.items() if value is not None}
    return f"{path}?{urlencode(given)}" if given else path


def _of(person: str | None) -> Json:
    """Who acts, where the key may name anybody."""
    return {} if person is None else {"user": person}


def _part(name: str) -> str:
    """A name as one part of a path."""
    return quote(name, safe="")


learn_structs()  # several threads ask by one door
