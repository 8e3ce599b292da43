"""What a way of training costs before it starts: memory by part, time and price, from the shape of a model and the size of a
step. Pure.

Bytes of memory are counted, and gigabytes are 10^9 of them. What is counted is what the training loop keeps; the formulas say
whose they are, and `tests/bench/plan.py` holds them against what was measured.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from streams.errors import Invalid

GB = 1e9
FP32 = 4
FP64 = 8
ADAM_BYTES = 8
"""Of each number that learns: two running means in fp32 (Kingma & Ba 2015, arXiv 1412.6980; the table of ZeRO, Rajbhandari et al.
2020, arXiv 1910.02054)."""
SHARDED = ("lora", "full", "continued_pretraining")
"""The methods that several processes can train with a share of the model each."""
PARTS = ("weights", "gradients", "optimizer", "activations", "output", "rows", "framework")
OF_STEPS = ("gradients", "activations", "output")  # made and freed at each; the optimizer's means are made once
HOST_KEEPS = 1.4
"""Of a step's memory on a CPU, what the process holds: the C library keeps freed pieces (1.00 GB was measured for 0.71)."""
HOST_FRAMEWORK = 1.0 * GB
"""Python, torch, transformers and a tokenizer, loaded, and what a training leaves behind when all that steps had is given back: as
measured (0.99 and 1.01)."""
FUSED_FROM = 256  # tokens of a pack's longest row, from which on attention keeps no scores
SCORED_AT_ONCE = 128  # of the answer's tokens, whose scores of all words are in memory together
SCORE_BYTES = 12
"""Of each score of a chunk: the scores, their logarithms and the probabilities, in fp32."""


class Shape(Struct, frozen=True, kw_only=True):
    """A causal decoder with gated feed-forward layers: what memory and time depend on."""

    vocabulary: int
    hidden: int
    feed_forward: int
    layers: int
    heads: int
    key_value_heads: int
    head_size: int
    tied: bool = False

    @property
    def queries(self) -> int:
        return self.heads * self.head_size

    @property
    def keys(self) -> int:
        return self.key_value_heads * self.head_size

    @property
    def linear(self) -> tuple[tuple[int, int], ...]:
        """Inputs and outputs of the linear layers of one layer."""
        h, q, k, f = self.hidden, self.queries, self.keys, self.feed_forward
        return ((h, q), (h, k), (h, k), (q, h), (h, f), (h, f), (f, h))

    @property
    def of_layer(self) -> int:
        return sum(i * o for i, o in self.linear) + 2 * self.hidden

    @property
    def parameters(self) -> int:
        """All numbers of the model: layers, embedding, and the output layer where it is not the embedding."""
        outer = self.vocabulary * self.hidden * (1 if self.tied else 2)
        return self.layers * self.of_layer + outer + self.hidden


def shape_of(config: Mapping[str, Any]) -> Shape:
    """Of a model's config.json. Raises Invalid naming what it lacks."""
    try:
        heads, hidden = int(config["num_attention_heads"]), int(config["hidden_size"])
        return Shape(
            vocabulary=int(config["vocab_size"]),
            hidden=hidden,
            feed_forward=int(config["intermediate_size"]),
            layers=int(config["num_hidden_layers"]),
            heads=heads,
            key_value_heads=int(config.get("num_key_value_heads") or heads),
            head_size=int(config.get("head_dim") or hidden // heads),
            tied=bool(config.get("tie_word_embeddings", False)),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise Invalid(f"config.json does not say how large the model is: {error}") from None


class Work(Struct, frozen=True, kw_only=True):
    """A training. `examples`: new ones; `row_tokens`, `answer_tokens`: of one row, on average. `rows_at_once` of a step's rows
    `batch_rows` are new. `upper_layers`: the share of the layers that learns. `weight_bytes`: of each number while it is trained
    (2: bf16). `checkpointed`: only what enters each layer is kept, and the rest computed again (Chen et al. 2016, arXiv
    1604.06174). `cards`: that the gradients and the optimizer's means are dealt among (ZeRO's second stage). `scored_at_once`:
    answer tokens whose scores are in memory together (None: all of a step's). `parts`: of a step that are computed side by side,
    in packs. `tokens_together`: of a step's tokens, as many as are in memory at once (None: all).
    `buffers`: numbers in fp32 that a library holds for talking to other cards. `processes`: of one machine, that share its rows and
    hold the model each. `sharded`: its weights are dealt among these, or among the cards, as well (ZeRO's third stage), and each
    has two layers, and what is outside of the layers, whole meanwhile. `keeps_best`: the weights of an earlier epoch are held, too
    (early stop). `longest_tokens`: of the longest row of which attention keeps its scores (None: all are equal), up to which those
    beside it are filled; `padding`: places of a pack for each token in it, with those that are filled.
    `answers`: that the model draws itself, `drawn_at_once`, to learn from `batch_answers` of them at once in each of `epochs`."""

    method: str = "lora"
    examples: int = 48
    row_tokens: int = 64
    answer_tokens: int = 24
    epochs: int = 14
    batch_rows: int = 8
    rows_at_once: int = 28
    kept_rows: int = 600
    rank: int = 16
    upper_layers: float = 0.5
    virtual_tokens: int = 16
    projection_width: int = 256
    weight_bytes: int = 2
    checkpointed: bool = False
    cards: int = 1
    scored_at_once: int | None = SCORED_AT_ONCE
    parts: int = 1
    buffers: int = 0
    keeps_best: bool = False
    processes: int = 1
    sharded: bool = False
    longest_tokens: int | None = None
    padding: float = 1.0
    tokens_together: int | None = None
    answers: int = 0
    drawn_at_once: int = 0
    batch_answers: int = 16

    @property
    def packed(self) -> bool:
        """Whether all rows of a step are run at once, in packs. What is not is run as transformers runs it: a prefix, all weights,
        a reward model, and what several processes share."""
        all_weights = self.method == "full" and self.upper_layers >= 1
        return self.method not in ("p_tuning_v2", "reward") and not all_weights and self.processes == 1

    @property
    def steps(self) -> int:
        """How often what learns is changed."""
        if self.answers:
            return self.epochs * max(1, -(-self.answers // self.batch_answers))
        return self.epochs * max(1, -(-self.examples // self.batch_rows))

    @property
    def tokens_at_once(self) -> int:
        return self.rows_at_once * self.row_tokens


USUAL: Mapping[str, Work] = {
    "lora": Work(),
    "full": Work(method="full", upper_layers=1.0, epochs=10),
    "p_tuning_v2": Work(method="p_tuning_v2", upper_layers=1.0, epochs=20),
    "lora_p_tuning_v2": Work(method="lora_p_tuning_v2"),
    "continued_pretraining": Work(
        method="continued_pretraining", upper_layers=1.0, rank=64, epochs=3, batch_rows=4, rows_at_once=36
    ),
    "dpo": Work(method="dpo", rows_at_once=44),  # two answers of each of eight pairs beside the rows
    "kto": Work(method="kto", rows_at_once=36),
    "ppo": Work(method="ppo", rows_at_once=44, epochs=2, answers=384, drawn_at_once=32, keeps_best=True),
    "sft_reward_ppo": Work(
        method="sft_reward_ppo", rows_at_once=44, epochs=2, answers=384, drawn_at_once=32, keeps_best=True
    ),  # the last stage
    "sft_dpo": Work(method="sft_dpo", rows_at_once=44),  # the larger of its stages
    "reward": Work(method="reward", epochs=3, rows_at_once=32, kept_rows=0),  # eight rankings of four
}
"""Each method as its recipe has it by itself."""


def learning_layers(shape: Shape, work: Work) -> int:
    """The layers that gradients go back through."""
    return max(1, round(shape.layers * work.upper_layers))


def learned(shape: Shape, work: Work) -> int:
    """How many numbers learn.

    LoRA: rank x (inputs + outputs) of each linear layer (Hu et al. 2021, arXiv 2106.09685). P-Tuning v2: an embedding of the
    virtual tokens and a projection of two layers to the keys and values of all layers (Li & Liang 2021, arXiv 2101.00190; Liu et
    al. 2021, arXiv 2110.07602); without a projection (`projection_width` 0) these keys and values alone. Full: all.
    """
    match work.method:
        case (
            "lora"
            | "lora_p_tuning_v2"
            | "continued_pretraining"
            | "dpo"
            | "kto"
            | "sft_dpo"
            | "ppo"
            | "sft_reward_ppo"
            | "reward"
        ):
            head = shape.hidden if work.method == "reward" else 0
            return learning_layers(shape, work) * sum(work.rank * (i + o) for i, o in shape.linear) + head
        case "p_tuning_v2":
            out = shape.layers * 2 * shape.keys
            if not work.projection_width:
                return work.virtual_tokens * out
            width = work.projection_width
            return work.virtual_tokens * shape.hidden + (shape.hidden + 1) * width + (width + 1) * out
        case "full":
            if work.upper_layers >= 1:
                return shape.parameters
            return learning_layers(shape, work) * shape.of_layer + shape.hidden
        case _:
            raise Invalid(f"there is no method {work.method!r}; there are {', '.join(USUAL)}")


def kept_bytes(shape: Shape, work: Work) -> float:
    """What one token leaves in one layer for the way back, as in Korthikanti et al. 2022 (arXiv 2205.05198, section 4.1), counted
    for a layer with gated feed-forward and RMS norms, in the training's number format (b bytes) but where it says fp32:

    what enters each of two norms, in fp32, and what leaves them (2h(4 + b)); queries, keys, values and the attention's result
    (b(2q + 2k)); gate, its activation, the other half and their product (4bf); and the attention's weights, in fp32 and in the
    number format, of each head for every token that is looked at, and for every place that is filled (of long rows none are kept).

    As transformers runs it, torch's attention keeps no weights, and is given keys and values for each head (4bq). Where the model
    itself does not learn, no linear layer keeps what enters it: neither what leaves the norms nor that product (8h + 4bq + 3bf).
    """
    b, h, q, f = work.weight_bytes, shape.hidden, shape.queries, shape.feed_forward
    if work.method == "p_tuning_v2":
        return 2 * h * FP32 + b * (4 * q + 3 * f)
    if not work.packed:
        return 2 * h * (FP32 + b) + b * (4 * q + 4 * f)
    looked_at = work.row_tokens if work.longest_tokens is None else work.longest_tokens
    scores = shape.heads * looked_at * work.padding * (FP32 if b == FP32 else FP32 + b) if looked_at < FUSED_FROM else 0
    return 2 * h * (FP32 + b) + b * (2 * q + 2 * shape.keys + 4 * f) + scores


def training_memory(shape: Shape, work: Work, framework: float) -> dict[str, float]:
    """Bytes of memory while steps are taken, by `PARTS`, on each card. `framework`: what an empty process takes."""
    count, b = learned(shape, work), work.weight_bytes
    own = FP32 * count if work.method != "full" else 0  # what learns is beside the model, in fp32
    own_rows = -(-work.rows_at_once // work.processes)
    tokens = min(own_rows * work.row_tokens, work.tokens_together or own_rows * work.row_tokens)
    parts = max(1, work.parts) if work.packed else 1
    # Where the output layer learns by our loss (a part of the scores at a time): as it was, its gradient of a part, and that in
    # proportion (`workers.trainer.losses`).
    of_head = 3 * FP32 * shape.vocabulary * shape.hidden if work.method == "full" and work.upper_layers >= 1 else 0
    layers, each = learning_layers(shape, work), kept_bytes(shape, work)
    # One layer more, of gradients; where each is computed again, what enters them, and two of one.
    kept = layers * shape.hidden * b + 2 * each if work.checkpointed else (layers + 1) * each
    answers = own_rows * work.answer_tokens if work.method != "reward" else 0  # one number a row, and no word
    scored = answers if work.scored_at_once is None else min(answers, work.scored_at_once * parts)
    # Where it draws answers: their keys and values, which are written anew with each token, and the scores of the next one.
    keys = 2 * shape.layers * shape.keys * b
    drawn = work.drawn_at_once * (2 * work.row_tokens * keys + shape.vocabulary * (SCORE_BYTES + FP64))
    dealt = work.cards * work.processes if work.sharded else work.cards
    weights, gradients = float(shape.parameters * b + own), FP32 * count * parts / dealt
    if work.sharded:
        outside = shape.parameters - shape.layers * shape.of_layer
        weights = weights / dealt + 2 * (shape.of_layer * b + own / layers) + outside * b
        gradients += FP32 * (shape.of_layer + outside if work.method == "full" else count / layers)
    return {
        "weights": weights,
        "gradients": gradients + FP32 * work.buffers,
        "optimizer": ADAM_BYTES * count / dealt + (FP32 * count if work.keeps_best else 0),
        "activations": tokens * kept + drawn,
        "output": scored * shape.vocabulary * SCORE_BYTES + (of_head if work.scored_at_once is not None else 0),
        "rows": (work.examples + work.kept_rows) * work.row_tokens * shape.hidden * b if work.packed else 0.0,
        "framework": framework,
    }


def saving_memory(shape: Shape, work: Work, held: float) -> float:
    """Bytes of the host's memory while the model that came of it is written: once more in fp32, and what is added to its weights,
    beside what is `held` there. (What steps had is given back before: `workers.trainer.freed`.)"""
    added = learning_layers(shape, work) * shape.of_layer * FP32 if work.method != "p_tuning_v2" else 0
    return held + added + FP32 * shape.parameters


def serving_memory(shape: Shape, weight_bytes: int, slots: int, context_tokens: int) -> dict[str, float]:
    """Bytes of an engine: its weights, and the keys and values of each place (2 x layers x keys x tokens; Pope et al. 2022, arXiv
    2211.05102)."""
    kv = 2 * shape.layers * shape.keys * context_tokens * slots * weight_bytes
    return {"weights": float(shape.parameters * weight_bytes), "kv": float(kv)}


def training_flops(shape: Shape, work: Work) -> float:
    """Floating-point operations of all steps: of each token and number 2 forward, 2 back through, and 2 more where that number
    itself learns (Kaplan et al. 2020, arXiv 2001.08361), again 2 where it is computed again. Layers below those that learn are
    gone through once a row."""
    upper = learning_layers(shape, work) * shape.of_layer
    lower = (shape.layers - learning_layers(shape, work)) * shape.of_layer
    each = (6 if work.method == "full" else 4) + (2 if work.checkpointed else 0)
    tokens = work.steps * work.tokens_at_once
    answers = work.steps * work.rows_at_once * work.answer_tokens if work.method != "reward" else 0
    once = (work.examples + work.kept_rows) * work.row_tokens
    head = shape.vocabulary * shape.hidden
    # Each token of them is drawn by a pass through all layers, read once more by the lower ones, and looked at by the upper ones as
    # policy and as reference.
    drawn = work.answers * (work.row_tokens * (4 * lower + 6 * upper) + 6 * head * work.answer_tokens)
    return each * upper * tokens + 2 * lower * once + each * head * answers + drawn


class Hardware(Struct, frozen=True, kw_only=True):
    """One machine, or `cards` of one. `memory_gb` and `tflops` are of one card: what it multiplies matrices at in bf16, without
    sparsity; `utilisation` of that is reached. `framework_gb`: what an empty process takes. `on_host`: the card is the machine
    itself."""

    name: str
    memory_gb: float
    tflops: float
    utilisation: float
    price_per_hour: float
    framework_gb: float
    cards: int = 1
    on_host: bool = False


class Plan(Struct, frozen=True, kw_only=True):
    """What a training would cost. `memory_gb` by `PARTS`, on each card; `peak_gb` the most at once; `serving_gb`: of the engine."""

    base: str
    method: str
    hardware: str
    learned: int
    steps: int
    memory_gb: dict[str, float]
    saving_gb: float
    peak_gb: float
    serving_gb: dict[str, float]
    seconds: float
    price: float
    fits: bool
    breaks: str | None = None
    nearest: str | None = None


SERVING_SLOTS, SERVING_TOKENS = 4, 2048


def plan(base: str, shape: Shape, work: Work, hardware: Hardware) -> Plan:
    """The plan of that work, and, where it does not fit, which part breaks it and the nearest that does."""
    found = _plan(base, shape, work, hardware)
    if found.fits:
        return found
    return replace(found, breaks=_breaks(found, hardware), nearest=_nearest(base, shape, work, hardware))


def _plan(base: str, shape: Shape, work: Work, hardware: Hardware) -> Plan:
    work = replace(work, cards=hardware.cards)
    if work.sharded and work.method not in SHARDED:
        raise Invalid(f"{work.method} cannot be trained in shards; {', '.join(SHARDED)} can")
    framework = hardware.framework_gb * GB
    memory = training_memory(shape, work, framework)
    if hardware.on_host:
        memory = {name: size * work.processes for name, size in memory.items()}
        memory |= {name: HOST_KEEPS * memory[name] for name in OF_STEPS}
    held = sum(size for name, size in memory.items() if name not in OF_STEPS) if hardware.on_host else HOST_FRAMEWORK
    saving = saving_memory(shape, work, held)
    peak = max(sum(memory.values()), saving if hardware.on_host else 0.0)
    if hardware.on_host and work.sharded:  # each reads the whole before it keeps its share
        peak = max(peak, work.processes * (framework + shape.parameters * work.weight_bytes))
    speed = hardware.tflops * 1e12 * hardware.utilisation * hardware.cards
    seconds = training_flops(shape, work) / speed
    serving = serving_memory(shape, FP32 if hardware.on_host else 2, SERVING_SLOTS, SERVING_TOKENS)
    return Plan(
        base=base,
        method=work.method,
        hardware=hardware.name if hardware.cards == 1 else f"{hardware.cards} x {hardware.name}",
        learned=learned(shape, work),
        steps=work.steps,
        memory_gb={name: round(memory[name] / GB, 3) for name in PARTS},
        saving_gb=round(saving / GB, 3),
        peak_gb=round(peak / GB, 3),
        serving_gb={name: round(size / GB, 3) for name, size in serving.items()},
        seconds=round(seconds, 1),
        price=round(seconds / 3600 * hardware.price_per_hour * hardware.cards, 4),
        fits=peak <= hardware.memory_gb * GB,
    )


def _breaks(found: Plan, hardware: Hardware) -> str:
    """The part with which there is no room any more, as they are added up."""
    total = found.memory_gb["framework"]
    for name in PARTS:
        if name != "framework":
            total += found.memory_gb[name]
            if total > hardware.memory_gb:
                return name
    return "saving"


def _nearest(base: str, shape: Shape, work: Work, hardware: Hardware) -> str | None:
    """In words, what fits there and is as near to it as can be."""
    for other in _nearer(work):
        if _plan(base, shape, other, hardware).fits:
            changed = [name for name in Work.__struct_fields__ if getattr(other, name) != getattr(work, name)]
            return ", ".join(f"{name} {getattr(other, name)}" for name in changed)
    return None


def _nearer(work: Work) -> Iterator[Work]:
    """What takes less, the nearest first: more computed again, fewer rows at once, fewer layers that learn, another method."""
    if not work.checkpointed and work.method != "p_tuning_v2":
        work = replace(work, checkpointed=True)
        yield work
    while work.rows_at_once > 1:
        rows = work.rows_at_once // 2
        work = replace(work, rows_at_once=rows, batch_rows=max(1, min(work.batch_rows, rows)))
        yield work
    if work.method == "full":
        lora = replace(
            USUAL["lora"], **{name: getattr(work, name) for name in ("examples", "row_tokens", "answer_tokens")}
        )
        lora = replace(lora, weight_bytes=work.weight_bytes, parts=work.parts)
        yield lora
        yield from _nearer(lora)
    elif work.method != "p_tuning_v2":
        for share in (0.5, 0.25, 0.1):
            if share < work.upper_layers:
                yield replace(work, upper_layers=share)


def refusal(found: Plan, hardware: Hardware) -> str:
    """In words, why it cannot be begun there."""
    assert found.breaks is not None
    size = found.saving_gb if found.breaks == "saving" else found.memory_gb[found.breaks]
    fits = f"it would fit with {found.nearest}" if found.nearest else "nothing near to it fits there"
    return (
        f"training needs {found.peak_gb:.1f} GB and there are {hardware.memory_gb:.1f}: no room for its {found.breaks}"
        f" ({size:.1f} GB); {fits}"
    )
