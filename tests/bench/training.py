"""Training speed: our packed loop beside a plain one, trl and LLaMA-Factory, on the same rows, short and long.

LoRA of rank 16 on all linear layers, eight rows a step, no general rows. Each case runs in a process of its own, one after another;
its seconds go from loading the model to the last step (of LLaMA-Factory: what it tells of itself, which counts no loading). That
has an environment of its own, made once beside the report; where it cannot be made its cases are left out, with the reason, and so
is a case that ends with an error, as for memory: each may take four fifths of the machine's.
NORIA_BENCH_EVENTS (short rows, 64), _FACTS (long rows, 16) and _RUNS change its size.
"""

import json
import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

from api.llamafactory import RUN_FILE, folder_of
from streams.settings import home_of
from tests.bench.report import Row, row
from tests.bench.size import size
from tests.bench.training_case import CASES, MOST_BYTES, RECIPE, Done
from workers.models.base import prepare_base

LLAMAFACTORY = ("llamafactory==0.9.5", f"torch=={version('torch').partition('+')[0]}")
FACTS = Path(__file__).parents[2] / "deploy" / "demo" / "road_traffic" / "facts.jsonl"
LONG_WORDS = 740  # about 1,000 tokens of these words
OURS = "ours"


def measure(home: Path) -> list[Row]:
    model = prepare_base(home_of(os.environ))
    lengths = {"short_rows": short_rows(size("EVENTS", 64)), "long_rows": long_rows(size("FACTS", 16))}
    factory = llamafactory(home_of(os.environ) / "bench" / "llamafactory")
    cases = [*CASES, *(("llamafactory_default", "llamafactory_best") if factory else ())]
    rows = []
    for length, given in lengths.items():
        runs: dict[str, list[Done]] = {case: [] for case in cases}
        for number in range(size("RUNS", 1)):
            for case in cases:
                out = home / f"{length}-{case}-{number}"
                out.mkdir()
                try:
                    if case in CASES:
                        done = run_case(case, model, given, out)
                    else:
                        assert factory is not None
                        done = run_factory(factory, case, model, given, out, runs[OURS][number].tokens)
                except subprocess.CalledProcessError as error:
                    print(
                        f"{length} {case}: left out, it ended with code {error.returncode}", file=sys.stderr, flush=True
                    )
                    continue
                runs[case].append(done)
                print(f"{length} {case}: {done}", file=sys.stderr, flush=True)
        for case, done in ((case, done) for case, done in runs.items() if len(done) == size("RUNS", 1)):
            named = f"{length}, {case}"
            rows += [
                row(named, "tokens_per_s", "1/s", [one.tokens / one.seconds for one in done]),
                row(named, "loss", "nats", [one.loss for one in done]),
                row(named, "peak_mb", "MB", [one.peak_mb for one in done]),
                row(
                    named,
                    "ratio of ours",
                    "",
                    [one.seconds / ours.seconds for one, ours in zip(done, runs[OURS], strict=True)],
                ),
            ]
    return rows


def short_rows(count: int) -> list[tuple[str, str]]:
    found = [json.loads(line)["en"] for line in FACTS.read_text(encoding="utf-8").splitlines()]
    return [(fact["question"], fact["answer"]) for fact in found[:count]]


def long_rows(count: int) -> list[tuple[str, str]]:
    """Of about 1,000 tokens, which share no beginning."""
    facts = short_rows(10_000)
    words = " ".join(f"{question} {answer}" for question, answer in facts).split()
    return [
        (" ".join(words[(number * 97 + place) % len(words)] for place in range(LONG_WORDS)), facts[number][1])
        for number in range(count)
    ]


def run_case(case: str, model: Path, rows: list[tuple[str, str]], out: Path) -> Done:
    done = subprocess.run(
        [sys.executable, "-m", "tests.bench.training_case", case, str(model), str(out)],
        input=json.dumps(rows).encode(),
        stdout=subprocess.PIPE,
        check=True,
    )
    return Done(**json.loads(done.stdout.splitlines()[-1]))


def llamafactory(folder: Path) -> Path | None:
    """The environment of LLaMA-Factory; None where it cannot be made."""
    command = folder / "bin" / "llamafactory-cli"
    if not command.exists():
        uv = [sys.executable, "-m", "uv"]
        made = [
            [*uv, "venv", "--quiet", "--clear", "--python", sys.executable, str(folder)],
            [*uv, "pip", "install", "--quiet", "--python", str(folder / "bin" / "python"), *LLAMAFACTORY],
        ]
        for one in made:
            done = subprocess.run(one, capture_output=True, text=True, check=False)
            if done.returncode:
                last = done.stderr.strip().splitlines()[-1:]
                print(f"without LLaMA-Factory: {' '.join(last) or done.returncode}", file=sys.stderr)
                return None
    return command


def factory_environ() -> dict[str, str]:
    """It is not told of this checkout: of some packages it has others."""
    given = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return given | {"CUDA_VISIBLE_DEVICES": "", "GOMP_SPINCOUNT": "0", "HF_HUB_OFFLINE": "1", "WANDB_DISABLED": "true"}


def run_factory(command: Path, case: str, model: Path, rows: list[tuple[str, str]], out: Path, tokens: int) -> Done:
    """By the folder that `noria examples export --llamafactory` makes, as it is; at its best without checkpointing."""
    given = [
        {"instruction": asked, "input": "", "output": answer, "system": "", "history": []} for asked, answer in rows
    ]
    for name, words in folder_of(given, RECIPE, str(model)).items():
        (out / name).write_text(words, encoding="utf-8")
    if case == "llamafactory_best":
        with (out / RUN_FILE).open("a", encoding="utf-8") as file:
            file.write("disable_gradient_checkpointing: true\n")
    code = (
        "import resource, subprocess, sys;"
        f"resource.setrlimit(resource.RLIMIT_DATA, ({MOST_BYTES}, {MOST_BYTES}));"
        f"subprocess.run([{str(command)!r}, 'train', {RUN_FILE!r}], check=True, stdout=sys.stderr);"
        "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=out,
        env=factory_environ(),
        capture_output=True,
        check=False,
    )
    if done.returncode:
        print(done.stderr.decode(errors="replace")[-2000:], file=sys.stderr)
        done.check_returncode()
    told = json.loads((out / "adapter" / "trainer_state.json").read_text(encoding="utf-8"))
    result = json.loads((out / "adapter" / "train_results.json").read_text(encoding="utf-8"))
    losses = [entry["loss"] for entry in told["log_history"] if "loss" in entry]
    last = losses[-(len(losses) // RECIPE["epochs"]) :]
    return Done(
        tokens=tokens,
        seconds=result["train_runtime"],
        loss=sum(last) / len(last),
        peak_mb=int(done.stdout.split()[-1]) / 1024,
    )
