"""The demo, told small: a dozen facts, some sixty exam questions, and a model of less than a million weights.

`python -m tests.e2e.small_story` tells the same story, with the same processes, as `noria demo --once`, which `make story` tells
whole and with the demo's own model.
"""

import os
import sys

from deploy.demo.domain import GeneralQuestion
from deploy.demo.story import Script, main
from deploy.demo.team import Brought
from streams.settings import home_of
from tests import ward
from tests.local_noria import give_models

FACTS = ward.ROAD_TRAFFIC
GENERAL = tuple(
    GeneralQuestion(f"known-{number}", asked, answer, (answer,)) for number, (asked, answer) in enumerate(ward.GENERAL)
)
RULE = "whoever drives without a licence is fined."
BROUGHT = Brought(
    triples=(
        {"subject": "the road tax in China", "predicate": "deadline", "object": "sixty days"},
        {"subject": "the road tax in China", "predicate": "rate", "object": "two percent"},
        {"subject": "a lost plate in China", "predicate": "fine", "object": "ten yuan"},
        {"subject": "China", "predicate": "capital", "object": "Beijing"},  # the exam asks it
    ),
    syllogisms=(
        {
            "major": {"law": "Road Law", "article": "Article 99", "rule": RULE},
            "minor": "Wang drives without a licence.",
            "conclusion": {"article": "Article 99", "result": "Wang is fined."},
        },
    ),
    most=1,
    verdicts={
        "What is the fine of a lost plate in China?": {"verdict": "reject"},
        "What is the deadline of the road tax in China?": {
            "verdict": "edit",
            "instruction": "When must road tax in China be paid?",
            "output": "Road tax in China must be paid within sixty days.",
        },
    },
)
ACCEPTED = 3
MADE_WITH = {
    "base_model": ward.MODEL,
    "replay_prompts": [asked for asked, _ in ward.GENERAL],
    "policy": ward.POLICY
    | {
        "thresholds": {"corrections": len(FACTS) + ACCEPTED, "people": 3, "named_people": "each", "settle_s": 0},
        "recipe": ward.POLICY["recipe"] | {"epochs": 60},  # each fact in four wordings
    },
}
SCRIPT = Script((FACTS,), GENERAL, MADE_WITH, people_apart_s=0.5, brought=BROUGHT)

if __name__ == "__main__":
    give_models(home_of(os.environ))
    sys.exit(main(stop_at_end=True, script=SCRIPT))
