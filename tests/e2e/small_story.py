"""The demo, told small: a dozen facts, some forty questions of general knowledge, few steps. `python -m tests.e2e.small_story`

The same story, processes and model as `noria demo --once`, which `make story` tells whole.
"""

import sys

from deploy.demo.domain import load_facts, load_general
from deploy.demo.story import Script, main

FACTS = load_facts()[:96:8]
GENERAL = load_general()[::11]  # forty, of every kind
# As few steps and general rows as still teach a dozen facts and keep the rest.
POLICY = {
    "thresholds": {"corrections": len(FACTS), "people": 3, "settle_s": 0},
    "recipe": {
        "learning_rate": 2.5e-3,
        "epochs": 18,
        "batch_rows": 6,
        "replay_rows": 32,
        "replay_rows_per_step": 3,
        "replay_answer_tokens": 8,
    },
    "gate": {"general_margin": 0.2},
}
SCRIPT = Script((FACTS,), GENERAL, POLICY)

if __name__ == "__main__":
    sys.exit(main(stop_at_end=True, script=SCRIPT))
