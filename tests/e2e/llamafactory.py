"""LLaMA-Factory through a whole round: it trains what Noria exported, and its adapter comes back, is gated and served.

    python -m tests.e2e.llamafactory

A Noria of its own with a model of less than a million weights: people correct it, `noria examples export --llamafactory` makes
the folder, `llamafactory-cli train sft.yaml` of its 0.9.5, in an environment of its own (made once), trains it as it is, and
`noria round start --adapter` brings the adapter in. Figures as JSON at the end; exit code 1 if the round did not ship or a taught
answer is not given at the door, 75 (with the reason) where LLaMA-Factory cannot be installed.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from time import monotonic
from typing import Any

from deploy.demo import story
from deploy.demo.people import ask, correct_facts, holds
from streams.settings import home_of
from tests import ward
from tests.bench.training import factory_environ, llamafactory
from tests.e2e.small_story import FACTS, GENERAL, MADE_WITH
from tests.local_noria import CACHE, UP_WITHIN_S, LocalNoria, running, until

NOT_INSTALLED = 75  # sysexits' EX_TEMPFAIL
# No round of its own begins.
POLICY = MADE_WITH["policy"] | {
    "thresholds": MADE_WITH["policy"]["thresholds"] | {"corrections": 10_000},
    "gate": {"general_margin": 0.49},
}


def main() -> int:
    factory = llamafactory(home_of(os.environ) / "bench" / "llamafactory")
    if factory is None:
        return NOT_INSTALLED
    with tempfile.TemporaryDirectory(prefix="noria-llamafactory-") as scratch:
        home = Path(scratch) / "home"
        with running(home) as noria:
            told = through_a_round(noria, factory, Path(scratch) / "factory")
    print(json.dumps(told, indent=1))
    return 0 if told["step"] == "released" and told["right_at_the_door"] == told["asked_at_the_door"] else 1


def through_a_round(noria: LocalNoria, factory: Path, folder: Path) -> dict[str, Any]:
    with noria.door() as door:
        door.create_domain(
            {"domain": story.DOMAIN, "title": "Roads", "languages": ["en"], **MADE_WITH, "policy": POLICY}
        )
        until(
            lambda: any(model["id"] == story.DOMAIN for model in door.models()),
            "release 0 answers",
            patience_s=UP_WITHIN_S,
        )
        story.watch_exam(door, noria.home, story.add_exam(door, FACTS, GENERAL))
        acts = correct_facts(door, story.DOMAIN, FACTS, 0.2, lambda acts, fact: None)
        # LLaMA-Factory has no guard for what a model knows, and corrections alone wipe a small one out: the gate refused that
        # adapter (general 40 of 40 to 0). A data team puts general rows among the examples.
        known = written_known(folder.parent / "known.jsonl")
        commanded(noria, "examples", "import", str(known), "--person", "data-team")
        commanded(noria, "examples", "export", str(folder), "--llamafactory", str(ward.base(CACHE)))
        began = monotonic()
        done = subprocess.run(
            [str(factory), "train", "sft.yaml"], cwd=folder, env=factory_environ(), capture_output=True, check=False
        )
        if done.returncode:
            raise SystemExit(done.stderr.decode(errors="replace")[-3000:])
        trained_s = monotonic() - began
        history = json.loads((folder / "adapter" / "trainer_state.json").read_text(encoding="utf-8"))["log_history"]
        losses = [entry["loss"] for entry in history if "loss" in entry]
        commanded(noria, "round", "start", "--adapter", str(folder / "adapter"))
        round_ = story.watch_round(door, None, 0)
        story.show_gate(round_)
        right = [
            holds(ask(door, story.DOMAIN, fact.en.question, "visitor", answer_tokens=64).texts[0], fact.en.keys)
            for fact in FACTS
            if round_["step"] == "released"
        ]
    checks = {check["name"]: check for check in (round_["verdict"] or {}).get("checks", [])}
    return {
        "corrections": acts.corrections,
        "llamafactory_seconds": round(trained_s, 1),
        "loss_before": losses[0],
        "loss_after": losses[-1],
        "step": round_["step"],
        "failure": round_["failure"],
        "gate": {
            name: [check["n"], check["before"], check["after"], check["verdict"]] for name, check in checks.items()
        },
        "release": round_["release"],
        "asked_at_the_door": len(right),
        "right_at_the_door": sum(right),
    }


def written_known(path: Path) -> Path:
    """What the model knows, as examples."""
    rows = [{"instruction": asked, "input": "", "output": answer} for asked, answer in ward.GENERAL]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def commanded(noria: LocalNoria, *words: str) -> None:
    """`noria WORDS` for the domain, as a person would give it."""
    done = subprocess.run(
        [sys.executable, "-m", "api.cli", *words, "--domain", story.DOMAIN],
        env=os.environ | {"NORIA_HOME": str(noria.home)},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"noria {' '.join(words[:2])}: {done.stderr}")


if __name__ == "__main__":
    sys.exit(main())
