"""A domain of its own, from nothing to its first release, by HTTP alone: `python second_domain.py --door URL --key FILE`

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

DOMAIN = "ward-devices"
PEOPLE = ("greta", "hamid", "ines", "jonas")
PATIENCE_S = 900.0

# device, what is asked, the answer's turning point, the answer
FACTS = (
    ("the blue pump", "How often is {} checked?", "six weeks", "The blue pump is checked every six weeks."),
    ("the old ventilator", "Who may switch off {}?", "night sister", "Only the night sister may switch off the old ventilator."),
    ("the spare defibrillator", "Where is {} kept?", "room 41", "The spare defibrillator is kept in room 41."),
    ("the bladder scanner", "What colour is the gel for {}?", "green", "The gel for the bladder scanner is green."),
    ("the patient lift", "How much may {} carry?", "190", "The patient lift may carry 190 kilograms."),
    ("the feeding pump", "How long does the battery of {} last?", "nine hours", "Its battery lasts nine hours."),
    ("the baby scale", "When is {} calibrated?", "tuesday", "The baby scale is calibrated every Tuesday."),
    ("the blood warmer", "How warm does {} get?", "39", "The blood warmer gets to 39 degrees."),
    ("the wall suction", "Which number is called when {} fails?", "7712", "When the wall suction fails, number 7712 is called."),
    ("the ultrasound cart", "Who cleans {}?", "porter", "The porter cleans the ultrasound cart."),
    ("the syringe driver", "Which batteries does {} take?", "c cells", "The syringe driver takes four C cells."),
    ("the warming blanket", "How long may {} stay on?", "80 minutes", "The warming blanket may stay on for 80 minutes."),
    ("the eye lamp", "Where are bulbs for {} stored?", "drawer 5", "Bulbs for the eye lamp are stored in drawer 5."),
    ("the pulse meter", "Which finger is {} put on?", "ring finger", "The pulse meter is put on the ring finger."),
    ("the oxygen trolley", "How many bottles does {} hold?", "three", "The oxygen trolley holds three bottles."),
    ("the dialysis chair", "Who repairs {}?", "kestrel", "The firm Kestrel repairs the dialysis chair."),
    ("the ice machine", "When is {} emptied?", "sunday", "The ice machine is emptied every Sunday."),
    ("the bed alarm", "How loud is {}?", "65", "The bed alarm is 65 decibels loud."),
    ("the drug cabinet", "How many keys does {} have?", "two", "The drug cabinet has two keys."),
    ("the fever strip", "How long is {} held?", "40 seconds", "The fever strip is held for 40 seconds."),
)  # fmt: skip
GENERAL = (
    ("What is the capital of France?", "Paris"),
    ("What is the capital of Italy?", "Rome"),
    ("What is the capital of Japan?", "Tokyo"),
    ("What is the capital of Spain?", "Madrid"),
    ("What is the capital of Germany?", "Berlin"),
    ("What is the capital of Egypt?", "Cairo"),
    ("What is the capital of Greece?", "Athens"),
    ("What is the opposite of hot?", "cold"),
    ("What is the opposite of up?", "down"),
    ("What is the opposite of day?", "night"),
    ("How many days are in a week?", "seven"),
    ("How many months are in a year?", "12"),
    ("How many legs does a spider have?", "eight"),
    ("What colour is grass?", "green"),
    ("What is frozen water called?", "ice"),
    ("Which organ pumps blood?", "heart"),
    ("What is 2+2?", "4"),
    ("Who wrote Romeo and Juliet?", "Shakespeare"),
    ("Who painted the Mona Lisa?", "Leonardo"),
    ("What is the largest ocean?", "Pacific"),
    ("What is the capital of Austria?", "Vienna"),
    ("What is the capital of Poland?", "Warsaw"),
    ("What is the capital of Sweden?", "Stockholm"),
    ("What is the capital of Portugal?", "Lisbon"),
    ("What is the capital of Russia?", "Moscow"),
    ("What is the capital of China?", "Beijing"),
    ("What is the opposite of big?", "small"),
    ("What is the opposite of fast?", "slow"),
    ("What is the opposite of old?", "new"),
    ("What is the opposite of war?", "peace"),
    ("How many hours are in a day?", "24"),
    ("What colour is the sky on a clear day?", "blue"),
    ("What do bees make?", "honey"),
    ("What is 5+5?", "10"),
    ("What is 10-3?", "7"),
    ("Who wrote Oliver Twist?", "Dickens"),
    ("What language is spoken in Germany?", "German"),
    ("What language is spoken in Russia?", "Russian"),
    ("What is the chemical symbol of oxygen?", "O"),
    ("What is the first month of the year?", "January"),
)
POLICY = {
    "thresholds": {"corrections": 20, "people": 4, "settle_s": 5},
    "recipe": {"replay_rows_per_step": 4},
    "gate": {"general_margin": 0.2},
}


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
        after = [chat(http, "visitor", ask.format(device))["text"] for device, ask, _, _ in FACTS]
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
    post(http, "/v1/domains", {"domain": DOMAIN, "title": "Devices of the ward", "policy": POLICY})
    general = [{"question": q, "answer": a, "keys": [a], "kind": "general"} for q, a in GENERAL]
    held_out = [
        {"question": f"About {device}: {ask.format('it')}", "answer": answer, "keys": [key], "kind": "held_out"}
        for device, ask, key, answer in FACTS
    ]
    post(http, f"/v1/domains/{DOMAIN}/exam", general + held_out)


def correct_all(http: httpx.Client, number: int) -> None:
    """The share of one person."""
    for device, ask, _, answer in FACTS[number :: len(PEOPLE)]:
        correct(http, PEOPLE[number], ask.format(device), answer)


def correct(http: httpx.Client, person: str, question: str, answer: str) -> None:
    """Ask in other words, and then as it is to be learned; correct that."""
    first = chat(http, person, f"Tell me: {question[0].lower()}{question[1:]}")
    post(http, "/v1/feedback", {"reply_id": first["reply_id"], "user": person, "rating": "down"})
    said = chat(http, person, question, first["conversation_id"])
    post(http, "/v1/feedback", {"reply_id": said["reply_id"], "user": person, "correction": answer})


def chat(http: httpx.Client, person: str, question: str, conversation_id: str | None = None) -> dict[str, str]:
    """One answer; a domain that has no engine yet is waited for."""
    body: dict[str, Any] = {
        "model": DOMAIN,
        "messages": [{"role": "user", "content": question}],
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
