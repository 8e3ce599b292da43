"""From the last correction to the release that has learned it: seconds, with a fresh domain and 48 facts of the demo.

NORIA_BENCH_FACTS and NORIA_BENCH_RUNS for another size; each run is a Noria of its own.
"""

from pathlib import Path

from deploy.demo import story
from deploy.demo.load import Load
from tests.bench.report import Row, row
from tests.bench.size import size
from tests.bench.wheel import STEPS, Turn, facts_of_size, fresh_domain, turn

FACTS = 48
RUNS = 1


def measure(home: Path) -> list[Row]:
    facts = facts_of_size(FACTS)
    turns: list[Turn] = []
    for run in range(size("RUNS", RUNS)):
        with fresh_domain(home / str(run)) as door:
            load = Load(door, story.DOMAIN, [facts[0].en.question])
            try:
                turns.append(turn(door, home / str(run), facts, load))
            finally:
                load.stop()
    case = f"{len(facts)} facts"
    checks = [{check["name"]: check for check in t.round["verdict"]["checks"]} for t in turns]
    return [
        row(case, "corrections", "corrections", [t.corrections for t in turns]),
        row(case, "last correction to live", "s", [t.live_s for t in turns]),
        *(row(case, f"step {step}", "s", [t.steps_s[step] for t in turns]) for step in STEPS),
        row(case, "share right before", "1", [c["fixes"]["before"] for c in checks]),
        row(case, "share right after", "1", [c["fixes"]["after"] for c in checks]),
    ]
