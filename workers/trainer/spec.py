"""What the trainer is given and what it gives back. No torch here: the parent process imports this."""

from msgspec import Struct, field

from streams.facts.rounds import Calibrated
from streams.recipes import Needs, Recipe


class TrainingRow(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One thing to learn, in plain text. Lives in memory only: nothing here may be written to disk or logged.

    `history` holds the turns before the prompt, oldest first, as (asked, answered); an empty side is no turn. Rows with the same
    `group` are wordings of one fact; a row without a group stands for itself. `beside`: it is taught beside another row of the same
    fact, and takes no step for itself. `text`: the answer is text as it stands in a document, learned without a question.
    `reworded`: the question is not as it was corrected. `weight`: how often it is shown while others are shown once.
    """

    prompt: str
    answer: str
    system: str | None = None
    history: tuple[tuple[str, str], ...] = ()
    group: str | None = None
    beside: bool = False
    text: bool = False
    reworded: bool = False
    weight: float = 1.0

    def __repr__(self) -> str:
        return "TrainingRow(sealed)"  # a traceback or a log line that shows a row must not show people's words


class TrainingPair(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Two answers to one prompt, of which people prefer the `chosen`; in plain text, as a row. `weight`: one over the pairs of its
    `ranking` (None: it is one by itself)."""

    prompt: str
    chosen: str
    rejected: str
    system: str | None = None
    history: tuple[tuple[str, str], ...] = ()
    weight: float = 1.0
    ranking: str | None = None

    def __repr__(self) -> str:
        return "TrainingPair(sealed)"


class TrainingLabel(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An answer that people find good, or bad; in plain text, as a row."""

    prompt: str
    answer: str
    good: bool
    system: str | None = None
    history: tuple[tuple[str, str], ...] = ()

    def __repr__(self) -> str:
        return "TrainingLabel(sealed)"


class Progress(Struct, frozen=True, kw_only=True, tag="progress", tag_field="kind"):
    """Where a training stands. `part`: the stage of a recipe with several, whose steps alone are counted. `loss` is nats per answer
    token of the last step's new rows, and on top of it the loss of what is preferred; `replay_divergence` nats per general token.
    `seconds_left` is what the steps so far lead one to expect, saving included; None until two steps were timed. `values`: what
    else the method tells of the step, by name."""

    stage: str  # "preparing", "training" or "saving"
    step: int
    steps: int
    epoch: int
    loss: float | None
    replay_divergence: float | None
    tokens_per_s: float | None
    seconds_left: float | None
    values: dict[str, float] = field(default_factory=dict)
    part: str | None = None


class Outcome(Struct, frozen=True, kw_only=True, tag="outcome", tag_field="kind"):
    """What came of a training. `model_dir` is a model folder of its own, in fp32; `adapter_dir` what was learned, alone, in PEFT's
    format, or `model_dir` itself where a method changes the weights. `needs` as in `streams.recipes`: where it is "adapter",
    `model_dir` holds that under `adapter/`.

    `tokens` counts what went through the layers that learn. `seconds` and `cpu_seconds` are this process's own: a run that was
    taken up again (`resumed_at_step` > 0) counts from there. `fallback`: why the rows were run one by one and not in packs, if
    they were. `metrics`: what else the method tells, by name; `calibrated`: of a reward model.
    """

    steps: int
    epoch_losses: tuple[float, ...]
    final_loss: float
    final_replay_divergence: float | None
    tokens: int
    rows: int
    rows_left_out: int
    seconds: float
    cpu_seconds: float
    resumed_at_step: int
    precision: str
    model_dir: str
    adapter_dir: str
    needs: Needs = "merged"
    fallback: str | None = None
    metrics: dict[str, float] = field(default_factory=dict)
    calibrated: tuple[Calibrated, ...] = ()
    export_difference: float | None = None  # see workers.models.finish; None if nothing was exported


class StageDone(Struct, frozen=True, kw_only=True, tag="stage", tag_field="kind"):
    """That a stage of a recipe with several is done, `number` (from 1) of `stages`, and what came of it."""

    stage: str
    number: int
    stages: int
    method: str
    outcome: Outcome


class Failure(Struct, frozen=True, kw_only=True, tag="failure", tag_field="kind"):
    """Why a child ended without a result. `reason` is the kind of error (`invalid`, `unavailable`, `bug`);
    `message` is our own wording, never a text of the rows."""

    reason: str
    message: str


class TrainSpec(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Everything a training child needs; it travels through a pipe, never through a file, an argument or the
    environment."""

    model_dir: str
    rows: tuple[TrainingRow, ...]
    replay_prompts: tuple[str, ...]
    earlier: tuple[TrainingRow, ...]
    recipe: Recipe
    out_dir: str
    checkpoint_dir: str
    reference_dir: str | None = None
    answers_dir: str | None = None
    brought_dir: str | None = None  # see `workers.trainer.job`
    reward_dir: str | None = None
    pairs: tuple[TrainingPair, ...] = ()
    labels: tuple[TrainingLabel, ...] = ()
    threads: int = 1
    device: str = "cpu"
    precision: str = "auto"
    general: float | None = None  # tokens to one of all else, in every step; None: as many rows as the recipe says
    checkpoint_every_s: float = 30.0
    processes: int = 1  # that train it together, with `threads` each
    sharded: bool = False  # each of them has its share of the model, and not all of it
    # The domain's kind of engine: what was made becomes a finished model directory for whichever serves it, in the process that has
    # transformers loaded. None: it is left as it was trained.
    engine: str | None = None

    def __repr__(self) -> str:
        return "TrainSpec(sealed)"
