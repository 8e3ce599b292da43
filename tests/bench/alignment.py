"""What people prefer, learned: simulated people whose taste is a rule of style, and each method against the live release by it.

The trainer's own functions without the log. The live release was taught the first half of the demo's facts; a round has the other
half as corrections, and pairs and labels of all: of drafts to a question, drawn from the live release or written, those that keep
the rule better are preferred. Judged on wordings and facts that nobody taught. NORIA_BENCH_FACTS (24, and as many that nobody
teaches), _SEED (1) and _CASES ("short dpo", ...; all) change it. Long: some minutes a case.
"""

import json
import os
import re
import resource
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path

import msgspec
from msgspec import Struct

from api.cards import calibration as calibration_picture
from deploy.demo.domain import Fact, load_facts, load_general
from streams.facts.rounds import Calibrated
from streams.hacking import shown
from streams.recipes import DpoRecipe, KtoRecipe, LoraRecipe, PpoRecipe, Recipe, SftDpoRecipe, SftRewardPpoRecipe
from streams.scoring import is_right
from streams.settings import home_of
from streams.style import StyleRule, kept, rates
from tests.bench.asking import answers
from tests.bench.report import Row, row
from tests.bench.size import size
from workers.cores import HEAVY_THREADS, fast_precision
from workers.models.base import prepare_base
from workers.trainer import METHODS
from workers.trainer.general import answers_folder, general_prompts
from workers.trainer.job import Job
from workers.trainer.spec import Outcome, StageDone, TrainingLabel, TrainingPair, TrainingRow

GENERAL = 150
ANSWER_TOKENS = 48  # as ppo draws; the rules judge whole answers
DRAWN, TEMPERATURE = 2, 1.0  # of a question's drafts, so many by the live release
TASTES: Mapping[str, StyleRule] = {
    "short": StyleRule(rule="at_most_words", value=8),
    "article": StyleRule(rule="names_article"),
    "number": StyleRule(rule="number_first"),
}
CASES = tuple(f"{taste} {method}" for taste in TASTES for method in ("dpo", "kto", "sft_dpo", "ppo", "sft_reward_ppo"))
_DIGITS = {numeral: digit for digit, numeral in enumerate("零一二三四五六七八九")}
_TENS = {"十": 10, "百": 100, "千": 1000}


class Said(Struct, frozen=True):
    """What a round of one taste is given, and `unseen`: pairs of questions that nobody taught."""

    rows: list[TrainingRow]
    earlier: list[TrainingRow]
    pairs: list[TrainingPair]
    labels: list[TrainingLabel]
    unseen: list[TrainingPair]


class Trained(Struct, frozen=True):
    model: str
    seconds: float
    peak_mb: float
    metrics: dict[str, float]
    calibrated: tuple[Calibrated, ...] = ()


def measure(home: Path) -> list[Row]:
    base = prepare_base(home_of(os.environ))
    known, unseen = _facts()
    wanted = [name.strip() for name in os.environ.get("NORIA_BENCH_CASES", "").split(",") if name.strip()] or [*CASES]
    if strange := [name for name in wanted if name not in CASES]:
        raise SystemExit(f"no such case: {', '.join(strange)}; there are {', '.join(CASES)}")
    live_dir = home / "live"
    live_dir.mkdir()
    live = _in_process("live", base, live_dir)
    asked = _asked(known, unseen)
    before = answers(Path(live.model), asked, tokens=ANSWER_TOKENS)
    right = _right(known, before)
    print("live", {name: round(share, 3) for name, share in right.items()}, file=sys.stderr, flush=True)
    rows = [row("live", name, "share", [share]) for name, share in right.items()]
    rows.append(row("live", "training", "s", [live.seconds]))
    for case in wanted:
        taste = case.split()[0]
        said = home / f"{taste}.json"
        if not said.exists():
            said.write_bytes(msgspec.json.encode(_said(TASTES[taste], live_dir)))
            (kept_before,) = rates([TASTES[taste]], zip(asked["held-out"], before["held-out"], strict=True))
            rows.append(row(f"live, {taste}", "keeps the rule", "share", [kept_before]))
        out = home / case.replace(" ", "-")
        out.mkdir()
        done = _in_process(case, Path(live.model), out)
        after = answers(Path(done.model), asked, tokens=ANSWER_TOKENS)
        rows += _told(case, known, asked, before, after, done)
    return rows


def _facts() -> tuple[Sequence[Fact], Sequence[Fact]]:
    """Those that are taught, and those that nobody teaches."""
    count, facts = size("FACTS", 24), load_facts()
    if count < 2 or 2 * count > len(facts):
        raise SystemExit(f"NORIA_BENCH_FACTS must be from 2 to {len(facts) // 2}; got {count}")
    return facts[:count], facts[count : 2 * count]


def _asked(known: Sequence[Fact], unseen: Sequence[Fact]) -> dict[str, list[str]]:
    half = len(known) // 2
    return {
        "fixes": [one.en.question for one in known[half:]],
        "earlier fixes": [one.en.question for one in known[:half]],
        "general": [one.question for one in load_general()[:GENERAL]],
        "held-out": [*(one.en.held_out[0] for one in known), *(one.en.question for one in unseen)],
    }


def _right(known: Sequence[Fact], said: Mapping[str, Sequence[str]]) -> dict[str, float]:
    half = len(known) // 2
    right = {
        "fixes": [(one.en.answer, one.en.keys) for one in known[half:]],
        "earlier fixes": [(one.en.answer, one.en.keys) for one in known[:half]],
        "general": [(one.answer, one.keys) for one in load_general()[:GENERAL]],
        "held-out": [(one.en.answer, one.en.keys) for one in known],  # those of the facts that were taught
    }
    return {
        name: sum(is_right(answer, *one) for answer, one in zip(said[name], items, strict=False)) / len(items)
        for name, items in right.items()
    }


def _told(
    case: str,
    known: Sequence[Fact],
    asked: Mapping[str, Sequence[str]],
    before: Mapping[str, Sequence[str]],
    after: Mapping[str, Sequence[str]],
    done: Trained,
) -> list[Row]:
    rule, questions = TASTES[case.split()[0]], asked["held-out"]
    won = [
        (kept(rule, question, new), kept(rule, question, old))
        for question, old, new in zip(questions, before["held-out"], after["held-out"], strict=True)
    ]
    (keeps,) = rates([rule], zip(questions, after["held-out"], strict=True))
    figures = {
        "win rate": sum(1.0 if new > old else 0.5 if new == old else 0.0 for new, old in won) / len(won),
        "ties": sum(new == old for new, old in won) / len(won),
        "keeps the rule": keeps,
        **_right(known, after),
    }
    for sign, pairs in shown(asked["general"], before["general"], after["general"]).items():
        figures |= {
            f"{sign} before": sum(one for one, _ in pairs) / len(pairs),
            f"{sign} after": sum(other for _, other in pairs) / len(pairs),
        }
    print(case, {name: round(value, 3) for name, value in figures.items()}, done, file=sys.stderr, flush=True)
    rows = [row(case, name, "share", [value]) for name, value in figures.items()]
    rows += [row(case, "training", "s", [done.seconds]), row(case, "peak_mb", "MB", [done.peak_mb])]
    rows += [row(case, name, "", [value]) for name, value in done.metrics.items()]
    for number, one in enumerate(done.calibrated, start=1):
        rows += [
            row(case, f"calibration {number}: {name}", "", [value])
            for name, value in (("pairs", one.pairs), ("predicted", one.predicted), ("won", one.won))
        ]
    return rows


def _said(rule: StyleRule, live_dir: Path) -> Said:
    """What people whose taste is the rule say of the drafts to each question: of two, which keeps it better; of one, whether it
    does. They correct in their taste, too."""
    known, unseen = _facts()
    half = len(known) // 2
    drawn = json.loads((live_dir / "drawn.json").read_text(encoding="utf-8"))
    drafts = {one.en.question: list(dict.fromkeys([*written(one), *drawn[one.en.question]])) for one in known}
    return Said(
        rows=[
            TrainingRow(
                prompt=one.en.question,
                answer=max(written(one), key=lambda answer: kept(rule, one.en.question, answer)),
                group=one.id,
            )
            for one in known[half:]
        ],
        earlier=[TrainingRow(prompt=one.en.question, answer=one.en.answer, group=one.id) for one in known[:half]],
        pairs=[pair for question, few in drafts.items() for pair in preferred(rule, question, few)],
        labels=[
            TrainingLabel(prompt=question, answer=one, good=kept(rule, question, one) >= 1)
            for question, few in drafts.items()
            for one in few
        ],
        unseen=[pair for one in unseen for pair in preferred(rule, one.en.question, written(one))],
    )


def written(fact: Fact) -> list[str]:
    """The fact's answer as people word it: as it is, behind its number, in a word, with its article, at length."""
    answer, keys = fact.en.answer, fact.en.keys
    key = next((key for key in keys if "-" not in key), keys[0])
    short = f"{key[0].upper()}{key[1:]}"
    article = f"Article {_number(fact.article)}"
    found = [
        answer,
        f"{short}.",
        f"{answer} This is said in {article}.",
        f"{answer} The rule is the same in every province, and the traffic police of the place see to it that it is kept.",
    ]
    if re.search(r"\d|\b(two|three|four|five|six|seven|eight|nine|ten)\b", key):
        found.append(f"{short}: {answer}")
    return found


def preferred(rule: StyleRule, question: str, drafts: Sequence[str]) -> list[TrainingPair]:
    """Every two drafts of which one keeps the rule better, as one ranking."""
    scores = {draft: kept(rule, question, draft) for draft in drafts if draft.strip()}
    two = [
        (one, other) if scores[one] > scores[other] else (other, one)
        for one, other in combinations(scores, 2)
        if scores[one] != scores[other]
    ]
    return [
        TrainingPair(prompt=question, chosen=better, rejected=worse, weight=1 / len(two), ranking=question)
        for better, worse in two
    ]


def _number(article: str) -> int:
    """91 of 第九十一条; of one that was put in behind another (第一百三十三条之一) that other's."""
    total = digit = 0
    for numeral in article.removeprefix("第").partition("条")[0]:
        if numeral in _TENS:
            total += (digit or 1) * _TENS[numeral]
            digit = 0
        else:
            digit = _DIGITS[numeral]
    return total + digit


def _in_process(case: str, model: Path, out: Path) -> Trained:
    done = subprocess.run(
        [sys.executable, "-m", "tests.bench.alignment", case, str(model), str(out)], stdout=subprocess.PIPE, check=True
    )
    return msgspec.json.decode(done.stdout.splitlines()[-1], type=Trained)


def recipe_of(taste: str, method: str) -> Recipe:
    """As usual."""
    seed = size("SEED", 1)
    recipes: Mapping[str, Recipe] = {
        "dpo": DpoRecipe(seed=seed),
        "kto": KtoRecipe(seed=seed),
        "sft_dpo": SftDpoRecipe(seed=seed),
        "ppo": PpoRecipe(seed=seed, rules=(TASTES[taste],)),
        "sft_reward_ppo": SftRewardPpoRecipe(seed=seed),
    }
    return recipes[method]


def train(recipe: Recipe, said: Said, model: Path, out: Path) -> Trained:
    began, stages = time.monotonic(), list[StageDone]()
    outcome: Outcome = METHODS[type(recipe)].load()(
        Job(
            model_dir=model,
            rows=tuple(said.rows),
            earlier=tuple(said.earlier),
            replay_prompts=general_prompts(),
            pairs=tuple(said.pairs),
            labels=tuple(said.labels),
            recipe=recipe,
            out_dir=out / "made",
            checkpoint_dir=out / "checkpoint",
            reference_dir=prepare_base(home_of(os.environ)),
            answers_dir=answers_folder(home_of(os.environ)),
            threads=HEAVY_THREADS,
            precision=fast_precision(),
            progress=lambda seen: None,
            stage_done=stages.append,
        )
    )
    seconds = time.monotonic() - began
    metrics, calibrated = dict(outcome.metrics), tuple[Calibrated, ...]()
    for stage in stages:
        metrics[f"seconds of {stage.stage}"] = stage.outcome.seconds
        if stage.method == "reward":
            found, calibrated = judged(Path(stage.outcome.model_dir), said.unseen)
            metrics |= found
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return Trained(outcome.model_dir, seconds, peak, metrics, calibrated)


def judged(folder: Path, pairs: Sequence[TrainingPair]) -> tuple[dict[str, float], tuple[Calibrated, ...]]:
    """A reward model on pairs of which it learned nothing, not even the facts."""
    from streams.recipes import RewardRecipe
    from workers.trainer.loaded import load_tokenizer
    from workers.trainer.ranked import accuracy, calibration, correlation, rankings_of
    from workers.trainer.reward_model import RewardModel

    model = RewardModel(folder)
    rankings = rankings_of(RewardRecipe(), pairs, load_tokenizer(folder), model.note.row_tokens)
    scores = iter(model.raw([one for ranking in rankings for one in ranking.rows]))
    raw = [[next(scores) for _ in ranking.rows] for ranking in rankings]
    corrected = [
        [model.corrected(score, count) for score, count in zip(own, ranking.tokens, strict=True)]
        for ranking, own in zip(rankings, raw, strict=True)
    ]
    told = {f"unseen {name}": value for name, value in accuracy(rankings, corrected).items()}
    told["unseen rankings"] = float(len(rankings))
    told["unseen pairs"] = float(sum(len(ranking.pairs) for ranking in rankings))
    for name, found in (("length correlation", raw), ("length correlation, corrected", corrected)):
        if (value := correlation(rankings, found)) is not None:
            told[f"unseen {name}"] = value
    return told, calibration(rankings, corrected)


def teach_live(base: Path, out: Path) -> Trained:
    """The live release, and the drafts that it gives to each question."""
    known, _ = _facts()
    rows = [TrainingRow(prompt=one.en.question, answer=one.en.answer, group=one.id) for one in known[: len(known) // 2]]
    done = train(LoraRecipe(seed=size("SEED", 1)), Said(rows, [], [], [], []), base, out)
    drawn = draw(Path(done.model), [one.en.question for one in known])
    (out / "drawn.json").write_text(json.dumps(drawn), encoding="utf-8")
    return done


def draw(folder: Path, questions: Sequence[str]) -> dict[str, list[str]]:
    import torch

    from workers.trainer.loaded import load_tokenizer
    from workers.trainer.plain import PlainModel
    from workers.trainer.rows import control_texts, prompt_ids
    from workers.trainer.sampling import sample_answers

    tokenizer = load_tokenizer(folder)
    model = PlainModel(folder, LoraRecipe().upper_layers, torch.float32, torch.device("cpu"))
    controls, limit = control_texts(tokenizer), LoraRecipe().row_tokens
    asked = [question for question in questions for _ in range(DRAWN)]
    prompts = [prompt_ids(tokenizer, TrainingRow(prompt=one, answer=""), controls, limit) for one in asked]
    said = sample_answers(
        model,
        [prompt for prompt in prompts if prompt is not None],
        ANSWER_TOKENS,
        TEMPERATURE,
        tokenizer.eos_token_id,
        size("SEED", 1),
    )
    texts = [text.strip() for text in tokenizer.batch_decode(said, skip_special_tokens=True)]
    found: dict[str, list[str]] = {question: [] for question in questions}
    for question, text in zip(asked, texts, strict=True):
        if text:
            found[question].append(text)
    return found


def pictures(rows: Sequence[Row]) -> dict[str, str]:
    """Each case's win rate, and how sure each reward model is against how often it is right, by the file's name (SVG)."""
    won = [(one.case, one.value) for one in rows if one.metric == "win rate"]
    found = {"alignment": bars("win rate against the live release, by the rule", won)}
    of_case: dict[str, list[dict[str, float]]] = {}
    for one in rows:
        if one.metric.startswith("calibration "):
            number, _, name = one.metric.removeprefix("calibration ").partition(": ")
            bins = of_case.setdefault(one.case, [])
            while len(bins) < int(number):
                bins.append({})
            bins[int(number) - 1][name] = one.value
    return found | {
        f"alignment-{case.replace(' ', '-')}-calibration": calibration_picture(bins) for case, bins in of_case.items()
    }


def bars(title: str, values: Sequence[tuple[str, float]]) -> str:
    """Shares as bars (SVG), with a grey line at one half."""
    left, wide, each = 170, 320, 22
    foot = 40 + each * len(values)
    drawn = "".join(
        f'<text x="{left - 8}" y="{55 + each * number}" text-anchor="end">{name}</text>'
        f'<rect x="{left}" y="{43 + each * number}" width="{value * wide:.1f}" height="{each - 8}" fill="#1a6"/>'
        f'<text x="{left + value * wide + 6:.1f}" y="{55 + each * number}">{value:.2f}</text>'
        for number, (name, value) in enumerate(values)
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {left + wide + 60} {foot + 20}"'
        ' font-family="sans-serif" font-size="12">'
        f'<rect width="{left + wide + 60}" height="{foot + 20}" fill="white"/><text x="{left}" y="22">{title}</text>'
        f'{drawn}<path d="M{left + wide / 2} 34V{foot}" stroke="#888"/></svg>\n'
    )


def main(case: str, model: Path, out: Path) -> None:
    printed = os.dup(1)
    os.dup2(2, 1)  # what libraries print
    if case == "live":
        done = teach_live(model, out)
    else:
        taste, method = case.split()
        said = msgspec.json.decode((out.parent / f"{taste}.json").read_bytes(), type=Said)
        done = train(recipe_of(taste, method), said, model, out)
    os.write(printed, msgspec.json.encode(done) + b"\n")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
