"""A small real HTTP server that speaks the door's contract from memory, for tests of its clients: the command line and the page.

What the real door answers is tested elsewhere; here its shapes are kept, its refusals included.
"""

import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import NAMESPACE_URL, uuid4, uuid5

import msgspec
from flask import Flask, Response, g, request
from werkzeug.serving import WSGIRequestHandler, make_server

from api.comparing import with_shares
from api.reasons import with_words
from streams.annotation import PLACES, Judging, Verdict
from streams.recipes import LoraRecipe

KEY = "noria-test-key"
# The keys that it knows, by role; an operator's names persons, the others speak as their own.
DATA_KEY, CHAT_KEY = "noria-test-data", "noria-test-chat"
ANNOTATORS = {name: f"noria-test-{name}" for name in ("ann", "ben", "cleo")}
KEYS = {KEY: "operator", DATA_KEY: "data", CHAT_KEY: "chat"} | dict.fromkeys(ANNOTATORS.values(), "annotator")
NAMES = {key: name for name, key in ANNOTATORS.items()}
Json = dict[str, Any]
WORDS_OF = ("state", "text", "question")  # of what was recalled; no answer carries them
POLICY: Json = {
    "thresholds": {"corrections": 40, "preferences": None, "people": 3, "days": None},
    "schedule": {"cron": "0 2 * * 1", "timezone": "Asia/Shanghai"},
    "quiet_hours": None,
    "rounds_per_day": 24,
    "budget_timezone": "UTC",
    "recipe": msgspec.to_builtins(LoraRecipe(epochs=12)),
    "gate": {"alpha": 0.05},
    "mask": [],
}


def now() -> str:
    return datetime.now(UTC).isoformat().replace("+00:00", "Z")


def ago(seconds: float) -> str:
    return (datetime.now(UTC) - timedelta(seconds=seconds)).isoformat().replace("+00:00", "Z")


def refusal(status: int, message: str, param: str | None = None, code: str | None = None) -> Response:
    body = {"error": {"message": message, "type": "invalid_request_error", "param": param, "code": code}}
    return said(body, status)


def said(body: Any, status: int = 200) -> Response:
    return Response(msgspec.json.encode(body), status, content_type="application/json")


class FakeDoor:
    """The state that a test may set, and what was asked of the door."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.url = ""
        self.reset()

    def reset(self) -> None:
        """As new."""
        self.answers: dict[str, str] = {}
        self.answer = "You may drive at 50 km/h there."
        self.recalled: dict[str, list[Json]] = {}  # by question: with their words, as a reply shows them
        self.memory_away = False
        self.piece_delay_s = 0.0
        self.break_off = False
        self.down = False
        self.domains: dict[str, Json] = {"road-traffic": new_domain("road-traffic", "Road traffic law")}
        self.replies: dict[str, Json] = {}
        self.corrections: dict[str, list[Json]] = {}
        self.events: list[Json] = []
        self.rounds: list[Json] = []
        self.sets: dict[
            str, list[Json]
        ] = {}  # by round: the candidates of its training set, with their places on the map
        self.releases: list[Json] = []
        self.comparisons: list[Json] = []  # the newest first
        self.base_comparisons: list[Json] = []
        self.bases: list[Json] = []
        self.compared: Json = MADE  # what comes of one that is under way, once it has been looked at
        self.exam: list[Json] = []
        self.refuse_after: int | None = None  # so many questions are taken, and then the log is away
        self.examples: list[Json] = []
        self.room: list[Json] = []  # rows of the data room, the newest first, each with its story
        self.decisions: list[Json] = []  # with what each row was before
        self.preferences: list[Json] = []
        self.memories: dict[str, list[Json]] = {}  # by question: what is recalled for it at any score, with their words
        self.calibrated = 0.5  # what is good enough, where neither the question nor the policy says so
        self.documents: list[Json] = []  # with their passages, as one is shown
        self.queue: list[Json] = []  # items as they are shown, each with the `judging` of `streams.annotation`
        self.agreement: Json = {"alpha": None, "items": 0, "agreed": 0}
        self.skipped: set[tuple[str, str]] = set()  # (who, what)
        self.quarantine: list[Json] = []
        self.log_lost: str | None = None
        self.stopped: list[Json] = []
        self.skips: list[Json] = []
        self.parked: list[Json] = []
        self.by_key: dict[str, Json] = {}
        self.chats: list[Json] = []
        self.feedback: list[Json] = []
        self.offset = 0
        self.keys: list[Json] = []
        self.revoked: set[str] = set()  # of those that it knows
        self.tokens: dict[str, str] = {}  # of links and sessions: the key they stand for

    def record(self, kind: str, topic: str, data: Json, at: str | None = None) -> str:
        with self.lock:
            position = f"noria.{topic}-0@{self.offset}"
            self.offset += 1
            event = {
                "specversion": "1.0",
                "id": str(uuid5(NAMESPACE_URL, position)),
                "source": "/noria/api",
                "type": f"noria.{kind}",
                "time": at or now(),
                "subject": data.get("domain"),
                "dataschema": f"urn:noria:{kind}:1",
                "correlationid": "c",
                "data": data,
            }
            self.events.append({"position": position, "event": event})
            return position

    def status_of(self, domain: str) -> Json:
        row = self.domains[domain]
        recent = [r for r in self.rounds if r["domain"] == domain][:5]
        return {
            "domain": domain,
            "title": row["title"],
            "live_release": row["live_release"],
            "serving": {"release": row["live_release"], "engine": f"{domain}@{row['live_release']}", "state": "ready"},
            "due": row["due"],
            "missing": row["missing"],
            "wake_at": row["wake_at"],
            "gathered": {name: row[name] for name in ("corrections", "preferences", "people")},
            "thresholds": row["policy"]["thresholds"],
            "round": next((r for r in recent if r["round_id"] == row["round_id"]), None),
            "rounds": recent,
            "releases": [r for r in self.releases if r["domain"] == domain][-5:],
            "feedback": {},
            "exam": {},
        }


def remembered_things() -> list[Json]:
    """A correction, a passage, and a correction that was erased since, as a reply shows them."""
    law = {"document_id": "d0c", "title": "Road Traffic Safety Law", "place": "article 91"}
    words = {"state": "stands", "question": "How fast at night?", "text": "30 km/h at night."}
    return [
        {"kind": "correction", "id": "c0de", "score": 0.875, "said_at": ago(3.0), "age_s": 0.9} | words,
        {"kind": "passage", "id": "9a55", "score": 0.5} | law | words | {"text": "Who drinks does not drive."},
        {
            "kind": "correction",
            "id": "gone",
            "score": 0.25,
            "said_at": ago(90_000),
            "age_s": 90_000.0,
            "state": "erased",
        },
    ]


def new_example(number: int, question: str, answer: str, state: str = "proposed", source: str = "self-kg") -> Json:
    """A row of the data room, and its story."""
    person = None if state == "proposed" else "ana"
    row = {"id": f"{number:032x}", "state": state, "source": source, "person": person, "edited": False, "reason": None}
    came = {"source": source, "kind": "fact", "build_id": "b-1", "asked_by": "curator", "teacher": None}
    triple = {"subject": "the ferry", "predicate": "home port", "object": "Skagen"}
    happened = [{"at": ago(3600), "what": "example_proposed", "by": None, "position": "noria.domains-1@7", "in": None}]
    learned = [{"number": 2, "step": "released", "release": 3, "answers": True, "snapshot": "sha256:" + "5e" * 32}]
    story = {
        "messages": [{"role": "user", "content": question}],
        "came_from": came | {"made_of": [{"kind": "triple", "id": "t-1", "triple": triple, "retired": None}]},
        "happened": happened,
        "learned": learned if state == "accepted" else [],
    }
    masked = ["phone"] if "13800138000" in answer else []
    return row | {"question": question, "answer": answer, "masked": masked, "story": story}


def new_document(title: str, passages: int) -> Json:
    """One as the door shows it, with its passages."""
    data = [
        {"passage_id": f"{title}-{n}", "number": n, "place": f"article {n + 1}", "text": f"Text {n + 1} of {title}."}
        for n in range(passages)
    ]
    row = {"document_id": uuid4().hex, "name": f"{title}.md", "title": title, "passages": passages, "by": "curator"}
    return row | {"added_at": ago(60), "retired": None, "data": [one | {"start": 0, "end": 9} for one in data]}


def new_item(words: str, waits: str = "proposed", doubled: bool = False, **known: Any) -> Json:
    """One that waits in the queue, as the door shows it."""
    passage = {"place": "Article 91", "text": "Who drives after drinking loses the licence for six months."}
    proposal = {"instruction": words, "input": "", "output": "The licence is withheld for six months.", "system": ""}
    return {
        "proposal_id": uuid4().hex,
        "builder": "self-qa",
        "kind": "question",
        "state": "proposed",
        "concern": None,
        "waits": waits,
        "reason": None,
        "proposal": proposal,
        "sources": [{"kind": "passage", "id": "9a55", "title": "Road Traffic Safety Law", "retired": None} | passage],
        "verdicts": [],
        "judging": Judging(doubled),
    } | known


MADE: Json = {
    "outcome": "made",
    "sets": {
        "general": {
            name: {"n": 200, "right": right, "prompt_tokens": 20.0, "completion_tokens": 9.0, "seconds": 0.25}
            for name, right in (("base", 120), ("base_recalled", 118), ("trained", 121), ("trained_recalled", 119))
        },
        "fixes": {
            name: {"n": 12, "right": right, "prompt_tokens": tokens, "completion_tokens": 7.0, "seconds": 0.5}
            for name, right, tokens in (
                ("base", 0, 20.0),
                ("base_recalled", 4, 80.0),
                ("trained", 10, 20.0),
                ("trained_recalled", 12, 80.0),
            )
        },
    },
    "duration_s": 61.0,
    "ended_at": "2026-11-28T08:16:32Z",
}


def of_a_base(right: int, **known: Any) -> Json:
    def answers(n: int, right: int) -> Json:
        return {"n": n, "right": right, "prompt_tokens": 20.0, "completion_tokens": 9.0, "seconds": 0.25}

    return {
        "family": "Qwen3",
        "parameters": 2_031_739_904,
        "context_tokens": 32_768,
        "licence": "apache-2.0",
        "engine": "llamacpp",
        "sets": {"untaught": answers(12, right), "held_out": answers(8, 2), "general": answers(200, 120)},
        "tokens_per_character": 0.25,
        "tokens_per_s": 41.5,
        "memory_gb": 2.125,
        "training": {"peak_gb": 9.5, "seconds": 600.0, "fits": True},
    } | known


BASES_MADE: Json = MADE | {
    "sets": None,
    "bases": {
        "heron-2b": of_a_base(3),
        "ibis-1b": of_a_base(
            0, licence=None, tokens_per_s=3.5, training={"peak_gb": 99.0, "seconds": 60.0, "fits": False}
        ),
    },
}


def new_base(**known: Any) -> Json:
    return {
        "base": "heron-2b",
        "model": "sha256:" + "a5" * 32,
        "family": "Qwen3",
        "parameters": 2_031_739_904,
        "context_tokens": 32_768,
        "vocabulary": 151_936,
        "licence": None,
        "engines": ["llamacpp", "transformers"],
        "by": "ops",
        "added_at": now(),
        **known,
    }


def new_comparison(domain: str, **known: Any) -> Json:
    return {
        "comparison_id": f"comparison of {domain}",
        "domain": domain,
        "release": 1,
        "compared": None,
        "by": "ops",
        "outcome": "under_way",
        "sets": None,
        "bases": None,
        "duration_s": None,
        "failure": None,
        "asked_offset": 7,
        "asked_at": ago(60),
        "ended_at": None,
    } | known


def new_domain(domain: str, title: str) -> Json:
    return {
        "domain": domain,
        "title": title,
        "languages": ["en", "zh"],
        "system_prompt": "",
        "base_model": "sha256:" + "0" * 64,
        "engine": "llamacpp",
        "policy": msgspec.json.decode(msgspec.json.encode(POLICY)),
        "live_release": 0,
        "round_id": None,
        "corrections": 31,
        "preferences": 4,
        "people": 5,
        "due": False,
        "missing": with_words(
            [
                {"code": "corrections", "values": {"have": 31, "need": 40}},
                {"code": "schedule_at", "values": {"at": "2026-11-30T02:00:00+00:00"}},
            ]
        ),
        "wake_at": None,
        "created_at": ago(3600),
    }


def new_round(domain: str, number: int, step: str, **more: Any) -> Json:
    names = ["snapshot", "kept", "earlier", "wordings", "dropped", "model", "adapter", "golden", "loss", "evaluation"]
    empty = dict.fromkeys([*names, "verdict", "release", "progress", "last_step", "failure", "ended_at"])
    return {
        "round_id": str(uuid5(NAMESPACE_URL, f"{domain} {number}")),
        "domain": domain,
        "number": number,
        "step": step,
        "reasons": with_words([{"code": "corrections_enough", "values": {"have": 40, "need": 40}}]),
        "pin": 120,
        "base_release": number - 1,
        "requested_at": ago(90),
        **empty,
        **more,
    }


def new_candidate(id: str, question: str, x: float, y: float, step: str = "", **more: Any) -> Json:
    """One of a training set, with its place on the map. `step`: that kept it back."""
    reasons = {"dedupe": "says the same as another", "leakage": "its question stands in the exam"}
    about = {"id": id, "kind": "example", "kept": not step, "step": step, "number": None, "neighbour": None}
    words = {"reason": reasons.get(step, step), "question": question, "answer": "At 6 km/h.", "new": False}
    return about | words | {"x": x, "y": y} | more


def application(door: FakeDoor) -> Flask:
    app = Flask("fake-door")

    @app.before_request
    def admit() -> Response | None:
        if door.down:
            return refusal(503, "the log does not answer; nothing was recorded", code="unavailable")
        token = request.headers.get("Authorization", "").removeprefix("Bearer ")
        once = token.startswith("noria-once-")
        g.key, g.token = door.tokens.get(token, token), token
        if g.key not in KEYS or g.key in door.revoked or (once and request.path != "/v1/sessions"):
            return refusal(401, "the key is not known here", code="invalid_api_key")
        if once:
            del door.tokens[token]
        named = [value for name, value in (request.view_args or {}).items() if name == "domain"]
        if any(name not in door.domains for name in [*named, *request.args.getlist("domain")]):
            return refusal(404, "there is no such domain", "domain", "domain_not_found")
        return None

    def begun(prefix: str) -> Response:
        token = f"{prefix}{uuid4().hex}"
        door.tokens[token] = g.key
        return said({"token": token, "expires_in_s": 3600}, 201)

    @app.post("/v1/sessions")
    def begin_session() -> Response:
        return begun("noria-session-")

    @app.post("/v1/sessions/link")
    def make_link() -> Response:
        return begun("noria-once-")

    @app.post("/v1/sessions/end")
    def end_session() -> Response:
        del door.tokens[g.token]
        return said({"ended": True})

    @app.get("/v1/me")
    def me() -> Response:
        role = KEYS[g.key]
        names = {"names_persons": role == "operator", "domains": None}
        if g.key in NAMES:
            return said({"name": NAMES[g.key], "role": role, "person": NAMES[g.key], **names})
        return said({"name": f"test-{role}", "role": role, "person": f"key:test-{role}", **names})

    @app.get("/v1/keys")
    def list_keys() -> Response:
        return said({"data": door.keys})

    @app.post("/v1/keys")
    def create_key() -> Response:
        body = request.get_json()
        row = {"key_id": uuid4().hex, "created_at": now(), "used_at": None, "revoked_at": None}
        row |= {name: body.get(name) for name in ("name", "role", "person", "domains")}
        row["expires_at"] = ago(-body["expires_in_s"]) if body.get("expires_in_s") else None
        door.keys.append(row)
        return said({**row, "key": f"noria-{uuid4().hex}"}, 201)

    @app.post("/v1/keys/<named>/revoke")
    def revoke_key(named: str) -> Response:
        found = [row for row in door.keys if named in (row["name"], row["key_id"]) and row["revoked_at"] is None]
        if not found:
            return refusal(404, "no key of that name or id holds", "key", "key_not_found")
        for row in found:
            row["revoked_at"] = now()
        return said({"revoked": [row["key_id"] for row in found]})

    @app.post("/v1/chat/completions")
    def chat() -> Response:
        body = request.get_json()
        domain, _, release = body["model"].partition("@")
        if domain not in door.domains:
            return refusal(404, "there is no such domain", "model", "model_not_found")
        door.chats.append(body)
        drafts = body.get("n", 1)
        question = body["messages"][-1]["content"]
        person = body.get("user") or "key:local"
        number = int(release) if release else door.domains[domain]["live_release"]
        conversation_id = (body.get("metadata") or {}).get("conversation_id") or str(uuid4())
        texts = [door.answers.get(question, door.answer)]
        texts += [f"{texts[0]} (draft {index + 1})" for index in range(1, drafts)]
        reply_ids = [f"rpl_{uuid4().hex}" for _ in range(drafts)]
        place = {"domain": domain, "conversation_id": conversation_id, "person": person, "release": number}
        door.record("prompt_asked", "conversations", place)

        def events() -> Iterator[bytes]:
            head = {"id": "prm_1", "object": "chat.completion.chunk", "model": f"{domain}@{number}"}

            def chunk(**more: Any) -> bytes:
                return b"data: " + msgspec.json.encode({**head, **more}) + b"\n\n"

            for index in range(drafts):
                yield chunk(choices=[{"index": index, "delta": {"role": "assistant", "content": ""}}])
            words = [text.split(" ") for text in texts]
            for step in range(max(len(found) for found in words)):
                for index, found in enumerate(words):
                    if step < len(found):
                        piece = found[step] + (" " if step < len(found) - 1 else "")
                        yield chunk(choices=[{"index": index, "delta": {"content": piece}}])
                if door.piece_delay_s:
                    time.sleep(door.piece_delay_s)
                if door.break_off and step == 2:
                    yield b"data: " + msgspec.json.encode(
                        {"error": {"message": "the engine did not finish the answer"}}
                    )
                    return
            position = ""
            for reply_id, text in zip(reply_ids, texts, strict=True):
                position = door.record("reply_drafted", "conversations", {**place, "reply_id": reply_id})
                door.replies[reply_id] = {**place, "text": text, "question": question}
            metadata = {
                "conversation_id": conversation_id,
                "release": f"{domain}@{number}",
                "reply_ids": reply_ids,
                "position": position,
            }
            if door.memory_away:
                metadata |= {"recall": "unavailable", "recalled": []}
            elif question in door.recalled:
                shown = [{k: v for k, v in one.items() if k not in WORDS_OF} for one in door.recalled[question]]
                metadata |= {"recall": "recalled", "recalled": shown}
            for index in range(drafts):
                last = {"metadata": metadata} if index == drafts - 1 else {}
                yield chunk(choices=[{"index": index, "delta": {}, "finish_reason": "stop"}], **last)
            yield b"data: [DONE]\n\n"

        return Response(events(), content_type="text/event-stream", headers={"X-Noria-Release": f"{domain}@{number}"})

    @app.get("/v1/models")
    def models() -> Response:
        return said({"object": "list", "data": [{"id": name, "object": "model"} for name in door.domains]})

    @app.post("/v1/feedback")
    def feedback() -> Response:
        body = request.get_json()
        key = request.headers.get("Idempotency-Key")
        if key and key in door.by_key:
            return said({**door.by_key[key], "duplicate": True})
        found = door.replies.get(body["reply_id"])
        if found is None:
            return refusal(404, "there is no such reply", "reply_id", "reply_not_found")
        person = body.get("user") or "key:local"
        if found["person"] != person:
            return refusal(403, "that reply was given to another person", "user")
        if body.get("correction") is not None and body["correction"].strip() == found["text"].strip():
            return refusal(422, "the correction says the same as the reply", "correction")
        recalled = door.recalled.get(found["question"], [])
        if body.get("misfit") is not None and body["misfit"] not in {one["id"] for one in recalled}:
            return refusal(422, "that memory was not recalled for the reply", "misfit", "not_recalled")
        door.feedback.append(body)
        kinds = {
            "rating": "reply_rated",
            "pick": "draft_picked",
            "ranking": "drafts_ranked",
            "correction": "reply_corrected",
            "misfit": "recall_rejected",
            "comment": "reply_commented",
        }
        position = ""
        for name, kind in kinds.items():
            if body.get(name) is not None:
                place = {"domain": found["domain"], "person": person, "reply_id": body["reply_id"]}
                position = door.record(kind, "conversations", place)
        answer = {"event_id": str(uuid5(NAMESPACE_URL, position)), "position": position, "duplicate": False}
        if body.get("correction") is not None:
            waiting = {"round_id": None, "round": None, "release": None, "live_at": None, "live_after_s": None}
            row = {"event_id": answer["event_id"], "example_id": str(uuid4()), "domain": found["domain"]}
            row |= {"reply_id": body["reply_id"], "given_at": now(), "state": "waiting", **waiting}
            door.corrections.setdefault(person, []).insert(0, row)
            door.domains[found["domain"]]["corrections"] += 1
        if key:
            door.by_key[key] = answer
        return said(answer)

    @app.get("/v1/replies/<reply_id>/recalled")
    def recalled(reply_id: str) -> Response:
        found = door.replies.get(reply_id)
        if found is None:
            return refusal(404, "there is no such reply", "reply_id", "reply_not_found")
        data = door.recalled.get(found["question"], [])
        return said({"reply_id": reply_id, "domain": found["domain"], "recall": "recalled", "data": data})

    @app.get("/v1/people/<person>/corrections")
    def corrections(person: str) -> Response:
        if person not in {found["person"] for found in door.replies.values()}:
            return refusal(404, "nobody of that name has spoken here", "person", "person_not_found")
        theirs = door.corrections.get(person, [])
        return said({"person": person, "data": theirs[: int(request.args.get("limit", 1000))], "total": len(theirs)})

    @app.post("/v1/people/<person>/erase")
    def erase(person: str) -> Response:
        if person not in {found["person"] for found in door.replies.values()}:
            return refusal(404, "nobody of that name has spoken here", "person", "person_not_found")
        position = door.record("person_erased", "domains", {"domain": "road-traffic", "person": person})
        learned = [
            {"domain": "road-traffic", "release": 1, "round_id": "r", "number": 1, "step": "released", "examples": 3}
        ]
        return said(
            {
                "person": person,
                "kids": ["k1"],
                "domains": ["road-traffic"],
                "examples": 3,
                "learned_by": learned,
                "places": [{"place": "snapshots/1", "kind": "snapshot", "owner": "selector"}],
                "position": position,
                "positions": [position],
            }
        )

    @app.get("/v1/domains")
    def list_domains() -> Response:
        return said({"data": list(door.domains.values())})

    @app.post("/v1/domains")
    def create_domain() -> Response:
        body = request.get_json()
        if body["domain"] in door.domains:
            return refusal(409, "there is such a domain already", "domain", "domain_exists")
        door.domains[body["domain"]] = new_domain(body["domain"], body.get("title") or body["domain"])
        door.domains[body["domain"]].update({k: v for k, v in body.items() if k != "policy"})
        position = door.record("domain_created", "domains", {"domain": body["domain"]})
        return said({"domain": body["domain"], "position": position}, 201)

    @app.get("/v1/domains/<domain>")
    def show_domain(domain: str) -> Response:
        return said(door.domains[domain])

    @app.post("/v1/domains/<domain>/retire")
    def retire_domain(domain: str) -> Response:
        row = door.domains[domain]
        known, row["retired_at"] = row.get("retired_at") is not None, now()
        position = None if known else door.record("domain_retired", "domains", {"domain": domain})
        return said({"domain": domain, "known": known, "position": position}, 202)

    @app.get("/v1/domains/<domain>/policy")
    def policy(domain: str) -> Response:
        return said(door.domains[domain]["policy"])

    @app.put("/v1/domains/<domain>/policy")
    def set_policy(domain: str) -> Response:
        body = request.get_json()
        if body.get("rounds_per_day", 1) < 1:
            return refusal(422, "policy: rounds_per_day must be at least 1; got 0", "rounds_per_day")
        door.domains[domain]["policy"] = body
        return said({"position": door.record("policy_set", "domains", {"domain": domain}), "policy": body})

    @app.get("/v1/domains/<domain>/status")
    def status(domain: str) -> Response:
        return said(door.status_of(domain))

    def page_of(items: list[Json]) -> Json:
        since, size = int(request.args.get("since", 0)), int(request.args.get("limit", 2))
        next_ = since + size if len(items) > since + size else None
        return {"data": items[since : since + size], "erased": 0, "retired": 0, "next": next_}

    @app.post("/v1/domains/<domain>/exam")
    def exam(domain: str) -> Response:
        items = request.get_json()
        if door.refuse_after is not None and len(door.exam) >= door.refuse_after:
            return refusal(503, "the log does not answer; nothing was recorded", code="unavailable")
        door.exam += [item | {"item_id": uuid4().hex, "import": request.args["import"]} for item in items]
        position = door.record("exam_item_added", "domains", {"domain": domain})
        return said({"added": len(items), "known": 0, "ids": [], "position": position})

    @app.get("/v1/domains/<domain>/exam")
    def show_exam(domain: str) -> Response:
        return said(page_of(door.exam))

    @app.post("/v1/domains/<domain>/exam/retire")
    def retire_exam(domain: str) -> Response:
        body = request.get_json()
        gone = [i for i in door.exam if i["item_id"] in body.get("items", []) or i["import"] == body.get("import")]
        if not gone:
            return refusal(404, "there is no such item in the domain", "items[0]", "item_not_found")
        door.exam = [item for item in door.exam if item not in gone]
        position = door.record("exam_item_retired", "domains", {"domain": domain})
        return said({"retired": len(gone), "known": 0, "position": position})

    @app.post("/v1/domains/<domain>/examples")
    def import_examples(domain: str) -> Response:
        items = request.get_json()
        for number, item in enumerate(items):
            if item["instruction"] == "refuse me":
                return refusal(413, f"item {number} is longer than 32768 bytes", f"[{number}]", "text_too_large")
        door.examples += items
        position = door.record("example_accepted", "domains", {"domain": domain})
        return said({"added": len(items), "known": 0, "ids": [], "position": position})

    @app.get("/v1/domains/<domain>/examples")
    def export_examples(domain: str) -> Response:
        origin = {"example_id": "e", "kind": "annotation"} if request.args.get("origin") == "true" else {}
        return said(page_of([one | origin for one in door.examples]))

    @app.get("/v1/domains/<domain>/examples/table")
    def room(domain: str) -> Response:
        wanted = {name: request.args[name] for name in ("state", "source", "person") if request.args.get(name)}
        plain = [row for row in door.room if all(row[name] == value for name, value in wanted.items())]
        sought = request.args.get("text", "").casefold()
        found = [row for row in plain if sought in f"{row['question']} {row['answer']}".casefold()]
        size, first = int(request.args["limit"]), int(request.args.get("before", 0))
        counts = Counter((row["source"], row["state"]) for row in plain)
        return said(
            {
                "data": [{k: v for k, v in row.items() if k != "story"} for row in found[first : first + size]],
                "next": first + size if len(found) > first + size else None,
                "searched": len(plain),
                "stopped": False,
                "counts": [{"source": source, "state": state, "n": n} for (source, state), n in sorted(counts.items())],
            }
        )

    @app.get("/v1/domains/<domain>/examples/<example_id>")
    def story(domain: str, example_id: str) -> Response:
        row = next(row for row in door.room if row["id"] == example_id)
        return said(
            row["story"] | {"id": example_id, "state": row["state"], "answer": row["answer"], "edited": row["edited"]}
        )

    @app.post("/v1/domains/<domain>/examples/decide")
    def decide_examples(domain: str) -> Response:
        body = request.get_json()
        wanted = body.get("filter") or {}
        rows = [
            row
            for row in door.room
            if (row["id"] in body["ids"] if body.get("ids") else all(row[k] == v for k, v in wanted.items()))
        ]
        state = {"accept": "accepted", "reject": "rejected", "retire": "retired"}[body["verb"]]
        door.decisions.append(body | {"before": {row["id"]: row["state"] for row in rows}})
        for row in rows:
            row["state"] = state
        decision = f"decision-{len(door.decisions)}"
        return said(
            {
                state: len(rows),
                "decision": decision,
                "position": door.record("example_accepted", "domains", {"domain": domain}),
            }
        )

    @app.post("/v1/domains/<domain>/examples/undo")
    def undo_decision(domain: str) -> Response:
        number = int(request.get_json()["decision"].rpartition("-")[2])
        before = door.decisions[number - 1]["before"]
        for row in door.room:
            row["state"] = before.get(row["id"], row["state"])
        position = door.record("proposal_reopened", "domains", {"domain": domain})
        return said({"reopened": len(before), "decision": "decision-u", "position": position})

    @app.post("/v1/domains/<domain>/preferences")
    def import_preferences(domain: str) -> Response:
        items = request.get_json()
        door.preferences += items
        position = door.record("ranking_accepted", "domains", {"domain": domain})
        return said({"added": len(items), "known": 0, "ids": [], "position": position})

    @app.post("/v1/domains/<domain>/style/pairs")
    def make_pairs(domain: str) -> Response:
        made = [] if door.preferences else [{"prompt": [], "ranked": ["a", "b"], "by_guide": True}]
        known, door.preferences = len(door.preferences), door.preferences + made
        position = door.record("ranking_accepted", "domains", {"domain": domain}) if made else None
        return said(
            {"prompts": 7, "added": len(made), "known": known, "ids": [], "import": "4be1", "position": position}
        )

    @app.get("/v1/domains/<domain>/preferences")
    def show_preferences(domain: str) -> Response:
        if domain not in door.domains:
            return refusal(404, "there is no such domain", "domain", "domain_not_found")
        pairs = [
            {
                "prompt": one["prompt"],
                "chosen": one["ranked"][0],
                "rejected": one["ranked"][1],
                "ranking": "p",
                "events": [],
                "by_guide": one.get("by_guide", False),
            }
            for one in door.preferences
            if "ranked" in one
        ]
        labels = [one for one in door.preferences if "label" in one]
        return said({"pairs": pairs, "labels": labels, "held": {"both sides are the same": 2}})

    @app.post("/v1/domains/<domain>/documents")
    def add_document(domain: str) -> Response:
        name, body = request.args["name"], request.get_data()
        if door.refuse_after is not None and len(door.documents) >= door.refuse_after:
            return refusal(503, "the log does not answer; nothing was recorded", code="unavailable")
        if b"broken" in body or not body:
            return refusal(422, f"{name}: it is broken", "name", "document_broken")
        before = next((one for one in door.documents if one["name"] == name), None)
        text = body.decode()
        if before is not None and before["data"][0]["text"] == text:
            more = {"known": True, "replaces": None, "position": None}
            return said({"document_id": before["document_id"], "name": name, "passages": 1} | more)
        passage = {"passage_id": uuid4().hex, "number": 0, "place": "p. 1", "text": text, "start": 0, "end": len(text)}
        row = {"document_id": uuid4().hex, "name": name, "title": f"The {name}", "passages": 1, "by": "curator"}
        row |= {"added_at": now(), "retired": None, "type": request.mimetype, "data": [passage]}
        door.documents = [*(one for one in door.documents if one is not before), row]
        position = door.record("document_added", "domains", {"domain": domain})
        more = {"known": False, "replaces": before["document_id"] if before else None, "position": position}
        return said({"document_id": row["document_id"], "name": name, "passages": 1} | more)

    @app.post("/v1/domains/<domain>/recall")
    def would_recall(domain: str) -> Response:
        body, recall = request.get_json(), door.domains[domain]["policy"].get("recall", {})
        if recall.get("of", "off") == "off":
            return refusal(409, "the domain's policy recalls nothing (recall.of is off)", "domain", "recall_off")
        if door.memory_away:
            return refusal(503, "the memory does not answer", code="memory_unavailable")
        most, least = body.get("most", recall.get("most", 3)), body.get("least", recall.get("least"))
        from_on = door.calibrated if least is None else least
        good = [one for one in door.memories.get(body["question"], []) if one["score"] >= from_on]
        return said({"domain": domain, "most": most, "least": least, "data": good[:most]})

    @app.get("/v1/domains/<domain>/documents")
    def documents(domain: str) -> Response:
        return said(page_of(door.documents))

    @app.get("/v1/domains/<domain>/documents/<document_id>")
    def document(domain: str, document_id: str) -> Response:
        row = next(one for one in door.documents if one["document_id"] == document_id)
        since, limit = int(request.args.get("since", 0)), int(request.args.get("limit", 1000))
        following = since + limit if len(row["data"]) > since + limit else None
        return said(row | {"data": row["data"][since : since + limit], "next": following})

    @app.delete("/v1/domains/<domain>/documents/<document_id>")
    def remove_document(domain: str, document_id: str) -> Response:
        door.documents = [one for one in door.documents if one["document_id"] != document_id]
        position = door.record("document_removed", "domains", {"reason": request.args.get("reason")})
        return said({"document_id": document_id, "known": False, "position": position})

    @app.post("/v1/domains/<domain>/rounds")
    def start_round(domain: str) -> Response:
        if door.domains[domain]["round_id"] is not None:
            return refusal(409, f"round {door.domains[domain]['round_id']} is under way", code="round_under_way")
        return said({"event_id": "e", "position": door.record("round_asked", "domains", {"domain": domain})}, 202)

    @app.get("/v1/rounds")
    def rounds() -> Response:
        domain = request.args.get("domain")
        return said({"data": [row for row in door.rounds if domain in (None, row["domain"])]})

    @app.get("/v1/rounds/<round_id>")
    def show_round(round_id: str) -> Response:
        for row in door.rounds:
            if row["round_id"] == round_id:
                return said(row)
        return refusal(404, "there is no such round", "round_id", "round_not_found")

    @app.get("/v1/rounds/<round_id>/snapshot")
    def snapshot(round_id: str) -> Response:
        (row,) = (row for row in door.rounds if row["round_id"] == round_id)
        found = door.sets.get(round_id, [])
        counted = Counter((one["kept"], "" if one["kept"] else one["step"], one["reason"]) for one in found)
        names = ("kept", "step", "reason")
        counts = [{"kind": "example", "candidates": n} | dict(zip(names, of, strict=True)) for of, n in counted.items()]
        steps = [{"step": step} for step in ("leakage", "agreement", "length", "dedupe", "k_center", "budget")]
        return said({"round_id": round_id, "snapshot": row["snapshot"], "selection": steps, "counts": counts})

    @app.get("/v1/rounds/<round_id>/snapshot/lines")
    def lines(round_id: str) -> Response:
        wanted = {name: request.args[name] for name in ("step", "kept") if name in request.args}
        id_ = request.args.get("candidate")
        found = [
            {name: one[name] for name in ("id", "kind", "kept", "step", "number", "neighbour", "reason")}
            for one in door.sets.get(round_id, [])
            if id_ in (None, one["id"]) and all(str(one[name]).lower() == value for name, value in wanted.items())
        ]
        first, size = int(request.args.get("since", 0)), int(request.args.get("limit", 1000))
        return said({"data": found[first : first + size], "next": first + size if len(found) > first + size else None})

    @app.get("/v1/rounds/<round_id>/snapshot/changes")
    def changes(round_id: str) -> Response:
        before, after = ({one["id"]: one for one in door.sets[id]} for id in (request.args["from"], round_id))
        data = [
            {"id": id, "kind": "example", "before": before.get(id), "after": after.get(id)}
            for id in sorted(before.keys() | after.keys())
            if before.get(id) != after.get(id)
        ]
        return said({"data": data})

    @app.get("/v1/rounds/<round_id>/snapshot/map")
    def snapshot_map(round_id: str) -> Response:
        (row,) = (row for row in door.rounds if row["round_id"] == round_id)
        about = {name: row[name] for name in ("round_id", "domain", "number", "snapshot")}
        return said(about | {"points": door.sets[round_id], "left_out": 0})

    @app.post("/v1/rounds/<round_id>/rebuild")
    def rebuild(round_id: str) -> Response:
        return said({"event_id": "e", "position": door.record("rebuild_asked", "domains", {"round_id": round_id})}, 202)

    @app.post("/v1/rounds/<round_id>/cancel")
    def cancel(round_id: str) -> Response:
        return said(
            {"event_id": "e", "position": door.record("round_cancelled", "domains", {"round_id": round_id})}, 202
        )

    @app.post("/v1/domains/<domain>/comparisons")
    def compare(domain: str) -> Response:
        if door.comparisons and door.comparisons[0]["outcome"] == "under_way":
            found = door.comparisons[0]["comparison_id"]
            return said({"comparison_id": found, "known": True, "position": None}, 202)
        door.comparisons.insert(0, new_comparison(domain))
        position = door.record("comparison_asked", "domains", {"domain": domain})
        return said({"comparison_id": door.comparisons[0]["comparison_id"], "known": False, "position": position}, 202)

    def waiting() -> Json:
        open_ = [item for item in door.queue if item["judging"].outcome is None]
        found = {name: sum(item["waits"] == name for item in open_) for name in PLACES}
        return found | {"second": sum(len(item["judging"].verdicts) == 1 for item in open_)}

    @app.get("/v1/queues")
    def queues() -> Response:
        names = ("domain", "title", "live_release")
        return said({"data": [{n: row[n] for n in names} for row in door.domains.values()]})

    @app.get("/v1/domains/<domain>/queue")
    def queue(domain: str) -> Response:
        return said({"domain": domain, "waiting": waiting(), "agreement": door.agreement})

    def annotator() -> str:
        return str(request.get_json().get("user") or NAMES.get(g.key, "key:test"))

    @app.post("/v1/domains/<domain>/queue/next")
    def next_in_queue(domain: str) -> Response:
        who = annotator()
        for item in sorted(door.queue, key=lambda item: PLACES[item["waits"]]):
            if item["judging"].takes(who) and (who, item["proposal_id"]) not in door.skipped:
                return said({"item": {name: value for name, value in item.items() if name not in ("judging", "said")}})
        return said({"item": None})

    @app.post("/v1/domains/<domain>/queue/<proposal_id>/skip")
    def skip_item(domain: str, proposal_id: str) -> Response:
        door.skipped.add((annotator(), proposal_id))
        return said({"skipped": True})

    @app.post("/v1/domains/<domain>/queue/<proposal_id>/judge")
    def judge(domain: str, proposal_id: str) -> Response:
        body, who = request.get_json(), annotator()
        item = next(item for item in door.queue if item["proposal_id"] == proposal_id)
        if not item["judging"].takes(who):
            return refusal(409, "it does not wait for anybody: it has been decided on", code="decided")
        taken = next((one for one in item["verdicts"] if one["judgement_id"] == body.get("takes")), None)
        verdict, edited = (taken["verdict"], taken["edited"]) if taken else (body["verdict"], body.get("edited"))
        item["judging"] = item["judging"].with_verdict(Verdict(who, verdict))
        one = {"judgement_id": uuid4().hex, "verdict": verdict, "edited": edited}
        item.setdefault("said", []).append(one)
        if item["judging"].disputed:
            item |= {"waits": "disputed", "verdicts": item["said"]}
        place = {"domain": domain, "proposal_id": proposal_id, "person": who, "verdict": verdict}
        return said({"verdict": verdict, "position": door.record("proposal_judged", "domains", place)})

    @app.post("/v1/domains/<domain>/queue/<proposal_id>/take-back")
    def take_back(domain: str, proposal_id: str) -> Response:
        item = next(item for item in door.queue if item["proposal_id"] == proposal_id)
        item["judging"] = item["judging"].without(annotator())
        verdict = item["said"].pop()["verdict"]
        place = {"domain": domain, "proposal_id": proposal_id}
        return said({"taken_back": verdict, "position": door.record("verdict_taken_back", "domains", place)})

    @app.get("/v1/domains/<domain>/comparisons")
    def comparisons(domain: str) -> Response:
        found = [with_shares(row) for row in door.comparisons][: int(request.args.get("limit", 20))]
        for row in door.comparisons:
            row.update(door.compared if row["outcome"] == "under_way" else {})
        return said({"data": found})

    @app.post("/v1/domains/<domain>/base-comparisons")
    def compare_bases(domain: str) -> Response:
        asked = {name: "sha256:" + "a5" * 32 for name in request.get_json()["bases"]}
        door.base_comparisons.insert(0, new_comparison(domain, release=None, compared=asked))
        position = door.record("base_comparison_asked", "domains", {"domain": domain, "bases": asked})
        found = door.base_comparisons[0]["comparison_id"]
        return said({"comparison_id": found, "known": False, "position": position}, 202)

    @app.get("/v1/domains/<domain>/base-comparisons")
    def base_comparisons(domain: str) -> Response:
        found = [with_shares(row) for row in door.base_comparisons]
        for row in door.base_comparisons:
            row.update(BASES_MADE)
        return said({"data": found})

    @app.post("/v1/bases")
    def add_base() -> Response:
        model = request.get_json()["model"]
        known = any(row["model"] == model for row in door.bases)
        if not known:
            door.bases.append(new_base(model=model))
        position = None if known else door.record("base_added", "domains", {"base": door.bases[-1]["base"]})
        return said({"base": door.bases[-1]["base"], "model": model, "known": known, "position": position}, 201)

    @app.get("/v1/bases")
    def bases() -> Response:
        return said({"data": door.bases})

    @app.get("/v1/bases/<base>")
    def base(base: str) -> Response:
        found = next((row for row in door.bases if row["base"] == base), None)
        return said(found) if found else refusal(404, "there is no such base", "base", "base_not_found")

    @app.get("/v1/releases")
    def releases() -> Response:
        domain = request.args.get("domain")
        return said({"data": [row for row in door.releases if domain in (None, row["domain"])]})

    @app.post("/v1/domains/<domain>/rollback")
    def rollback(domain: str) -> Response:
        to = request.get_json()["to"]
        if to not in {row["release"] for row in door.releases}:
            return refusal(404, f"there is no release {to} to go to", "to", "release_not_found")
        door.domains[domain]["live_release"] = to
        for row in door.releases:
            row["state"] = "live" if row["release"] == to else "retired"
        return said(
            {"event_id": "e", "position": door.record("rollback_asked", "domains", {"domain": domain, "to": to})}, 202
        )

    @app.get("/readyz")
    def readyz() -> Response:
        return said({"status": "not ready", "missing": ["log"], "reason": door.log_lost} if door.log_lost else {})

    @app.get("/v1/quarantine")
    def quarantine() -> Response:
        limit = int(request.args["limit"])
        rows = [{k: v for k, v in row.items() if k != "value_base64"} for row in door.quarantine[:limit]]
        now_still = {"stopped": door.stopped, "parked": door.parked}
        return said({"data": rows, "count": len(door.quarantine), "skips": door.skips, **now_still})

    @app.post("/v1/quarantine/skip")
    def skip() -> Response:
        body = request.get_json()
        stop = next((stop for stop in door.stopped if stop["partition"] == body["partition"]), None)
        if stop is None:
            return said({"partition": body["partition"], "to": None, "position": None})
        door.stopped.remove(stop)
        row = {"partition": body["partition"], "to": body.get("to", stop["last"])}
        door.skips.append(row | {"by": "key:local", "at": now()})
        return said(row | {"position": "noria.operations-0@1"}, 202)

    @app.get("/v1/quarantine/<place>")
    def quarantined(place: str) -> Response:
        for row in door.quarantine:
            if row["place"] == place:
                return said(row)
        return refusal(404, "nothing from there is in quarantine", "place", "not_quarantined")

    @app.get("/v1/events")
    def events() -> Response:
        domain, limit = request.args.get("domain"), int(request.args.get("limit", 100))
        kept = [e for e in door.events if domain is None or e["event"]["data"].get("domain") == domain]
        after = request.args.get("after")
        if after is None:
            kept = kept[-limit:]
        else:
            first = 0 if after == "beginning" else int(after)
            kept = kept[first : first + limit]
            return said({"data": kept, "next": str(first + len(kept)) if kept else after})
        if request.args.get("follow") == "1":
            lines = [b": the log follows\n\n", *(b"data: " + msgspec.json.encode(e) + b"\n\n" for e in kept)]
            return Response(iter(lines), content_type="text/event-stream")
        return said({"data": kept, "next": str(len(door.events))})

    @app.get("/v1/events/<event_id>")
    def event(event_id: str) -> Response:
        for found in door.events:
            if found["event"]["id"] == event_id:
                return said(found)
        return refusal(404, "there is no such event", "event_id", "event_not_found")

    return app


class _Quiet(WSGIRequestHandler):
    def log_request(self, *_: object) -> None:
        """Nothing: what is asked is in the door's own lists."""


@contextmanager
def serving(door: FakeDoor | None = None) -> Iterator[FakeDoor]:
    """A door on a free port of loopback, until the end of the block."""
    door = door or FakeDoor()
    server = make_server("127.0.0.1", 0, application(door), threaded=True, request_handler=_Quiet)
    door.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), name="fake-door", daemon=True)
    thread.start()
    try:
        yield door
    finally:
        server.shutdown()
        thread.join()
