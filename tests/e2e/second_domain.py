"""A domain of its own, from nothing to its first release, by HTTP alone: `python -m tests.e2e.second_domain --door URL --key FILE`

Twenty facts about the devices of an invented hospital, four people who correct them, and an exam that belongs to it.
Prints one JSON object: the round, the gate's verdict, and how the domain answers afterwards.
"""

import argparse
import json
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx

from tests.ward import FACTS, GENERAL, MODEL, POLICY, question

DOMAIN = "ward-devices"
PEOPLE = ("greta", "hamid", "ines", "jonas")
PATIENCE_S = 900.0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--door", required=True, help="http://host:port")
    parser.add_argument("--key", required=True, type=Path, help="file of an operator's key")
    given = parser.parse_args()
    headers = {"Authorization": f"Bearer {given.key.read_text().strip()}"}
    with httpx.Client(base_url=given.door, headers=headers, timeout=180, trust_env=False) as http:
        create(http)
        with ThreadPoolExecutor(len(PEOPLE)) as crowd:
            for done in [crowd.submit(correct_all, http, number) for number in range(len(PEOPLE))]:
                done.result()
        round_ = ended_round(http)
        after = [chat(http, "visitor", question(fact))["text"] for fact in FACTS]
    right = sum(key in answer.casefold() for answer, (_, _, key, _) in zip(after, FACTS, strict=True))
    print(
        json.dumps(
            {"round": round_["step"], "release": round_["release"], "verdict": round_["verdict"], "right": right}
        )
    )
    return 0 if round_["step"] == "released" else 1


def post(http: httpx.Client, path: str, body: Any, not_yet: tuple[int, ...] = (429, 503)) -> Any:
    """The answer, asked for again as long as the door says that it cannot at present; nothing takes effect twice."""
    until, headers = time.monotonic() + PATIENCE_S, {"Idempotency-Key": uuid4().hex}
    while True:
        answered = http.post(path, json=body, headers=headers)
        if answered.status_code not in not_yet or time.monotonic() > until:
            break
        time.sleep(float(answered.headers.get("Retry-After", "0.5")))
    answered.raise_for_status()
    return answered.json()


def create(http: httpx.Client) -> None:
    known = [question for question, _ in GENERAL]
    asked = {"domain": DOMAIN, "title": "Devices of the ward", "policy": POLICY, "base_model": MODEL}
    post(http, "/v1/domains", asked | {"replay_prompts": known})
    general = [{"question": q, "answer": a, "keys": [a], "kind": "general"} for q, a in GENERAL]
    held_out = [
        {"question": f"About {device}: {ask.format('it')}", "answer": answer, "keys": [key], "kind": "held_out"}
        for device, ask, key, answer in FACTS
    ]
    post(http, f"/v1/domains/{DOMAIN}/exam", general + held_out)


def correct_all(http: httpx.Client, number: int) -> None:
    """The share of one person."""
    for fact in FACTS[number :: len(PEOPLE)]:
        correct(http, PEOPLE[number], question(fact), fact[3])


def correct(http: httpx.Client, person: str, asked: str, answer: str) -> None:
    """Ask in other words, and then as it is to be learned; correct that."""
    first = chat(http, person, f"Tell me: {asked[0].lower()}{asked[1:]}")
    post(http, "/v1/feedback", {"reply_id": first["reply_id"], "user": person, "rating": "down"})
    said = chat(http, person, asked, first["conversation_id"])
    post(http, "/v1/feedback", {"reply_id": said["reply_id"], "user": person, "correction": answer})


def chat(http: httpx.Client, person: str, asked: str, conversation_id: str | None = None) -> dict[str, str]:
    """One answer; a domain that has no engine yet is waited for."""
    body: dict[str, Any] = {
        "model": DOMAIN,
        "messages": [{"role": "user", "content": asked}],
        "user": person,
        "max_tokens": 32,
        "temperature": 0,
    }
    if conversation_id is not None:
        body["metadata"] = {"conversation_id": conversation_id}
    found = post(http, "/v1/chat/completions", body, not_yet=(404, 429, 503))
    choice = found["choices"][0]
    return {
        "text": choice["message"]["content"],
        "reply_id": choice["reply_id"],
        "conversation_id": found["metadata"]["conversation_id"],
    }


def ended_round(http: httpx.Client) -> dict[str, Any]:
    until = time.monotonic() + PATIENCE_S
    while time.monotonic() < until:
        rounds: list[dict[str, Any]] = http.get("/v1/rounds", params={"domain": DOMAIN}).json()["data"]
        if rounds and rounds[0]["ended_at"]:
            whole: dict[str, Any] = http.get(f"/v1/rounds/{rounds[0]['round_id']}").json()
            return whole
        time.sleep(1.0)
    raise SystemExit("the round did not end")


if __name__ == "__main__":
    sys.exit(main())
