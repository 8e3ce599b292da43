"""The demo, told small: ten facts, some fifty exam questions, few steps. `python -m tests.e2e.small_story`

The same story, processes and model as `noria demo --once`, which `make story` tells whole.
"""

import sys

from deploy.demo.domain import load_facts, load_general
from deploy.demo.story import Script, main

FACTS = load_facts()[:90:9]
GENERAL = load_general()[::18]  # of every kind
# As few steps and general rows as still teach the facts and keep the rest.
POLICY = {
    "thresholds": {"corrections": len(FACTS), "people": 3, "settle_s": 0},
    "recipe": {
        "learning_rate": 2.5e-3,
        "epochs": 18,
        "batch_rows": 5,
        "replay_rows": 24,
        "replay_rows_per_step": 3,
        "replay_answer_tokens": 8,
    },
    "gate": {"general_margin": 0.2},
}
SCRIPT = Script((FACTS,), GENERAL, POLICY, after_a_flip=12, people_apart_s=0.5)

if __name__ == "__main__":
    sys.exit(main(stop_at_end=True, script=SCRIPT))
