"""What an opening round teaches: to answer from what is recalled, and nothing of any domain.

`opening.jsonl` is our own material, in English and Chinese, of invented places and things: a question, one to three passages as a
memory would give them, and the answer. The right passage is mostly the first; sometimes the second or third, and where none is
right the answer says so. Of some of its subjects nothing is taught: their items are the exam of the skill.
"""

import hashlib
from functools import cache
from pathlib import Path

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from streams.artifacts import Artifacts
from streams.errors import Invalid
from streams.made_with import MadeWith
from streams.orders import TrainCandidate
from streams.recalled import Memory, with_recalled
from streams.recipes import BroughtRecipe, LoraRecipe, Needs, PreferringRecipe, Recipe, RewardRecipe
from workers.trainer.spec import TrainingRow

OPENING_FILE = Path(__file__).with_suffix(".jsonl")
EPOCHS = 2  # at most: what is to be learned is the same in all of its rows


class _Passage(Struct, frozen=True, forbid_unknown_fields=True):
    text: str
    source: str = ""


class OpeningItem(Struct, frozen=True, forbid_unknown_fields=True):
    """An answer is right when it holds one of the `keys`. `held_out`: asked, and not taught."""

    question: str
    passages: tuple[_Passage, ...]
    answer: str
    keys: tuple[str, ...]
    held_out: bool = False

    @property
    def asked(self) -> str:
        """The question behind its passages."""
        return with_recalled(self.question, [Memory(text=one.text, source=one.source) for one in self.passages])


@cache
def _items() -> tuple[OpeningItem, ...]:
    decoder = msgspec.json.Decoder(OpeningItem)
    return tuple(decoder.decode(line) for line in OPENING_FILE.read_bytes().splitlines())


def opening_rows() -> tuple[TrainingRow, ...]:
    return tuple(TrainingRow(prompt=item.asked, answer=item.answer) for item in _items() if not item.held_out)


def skill_exam() -> tuple[OpeningItem, ...]:
    return tuple(item for item in _items() if item.held_out)


def opening_recipe(recipe: Recipe) -> Recipe:
    """Raises Invalid where nothing would be trained."""
    if isinstance(recipe, BroughtRecipe):
        raise Invalid("an opening round trains: it takes no adapter that was trained elsewhere")
    if isinstance(recipe, RewardRecipe):
        raise Invalid("an opening round teaches a model to answer: no reward model comes of it")
    if isinstance(recipe, PreferringRecipe):  # of which its material says nothing
        recipe = LoraRecipe(**{name: getattr(recipe, name) for name in LoraRecipe.__struct_fields__})
    return replace(recipe, epochs=min(recipe.epochs, EPOCHS))


class Candidate(Struct, frozen=True):
    """What a training has made, by its digests, and what it told of itself."""

    model: str
    adapter: str
    golden: str
    loss: float
    steps: int
    export_difference: float | None
    needs: Needs
    cpu_s: float
    losses: tuple[float, ...]
    rows: int
    tokens: int
    made_with: MadeWith
    fallback: str | None
    metrics: dict[str, float]


class Openings:
    """What opening rounds have made, each by all that it depends on: another domain of the same base has it at once. Beside the
    artifacts, and forgotten with them."""

    def __init__(self, artifacts: Artifacts, folder: Path) -> None:
        self._artifacts = artifacts
        self._folder = folder

    def find(self, order: TrainCandidate, precision: str) -> Candidate | None:
        try:
            opened = msgspec.json.decode(self._place(order, precision).read_bytes(), type=Candidate)
        except (FileNotFoundError, msgspec.MsgspecError):
            return None
        kept = all(self._artifacts.has(digest) for digest in (opened.model, opened.adapter, opened.golden))
        return opened if kept else None

    def keep(self, order: TrainCandidate, precision: str, opened: Candidate) -> None:
        place = self._place(order, precision)
        self._folder.mkdir(exist_ok=True, mode=0o700)
        arriving = place.with_suffix(f".{order.order_id}")
        arriving.write_bytes(msgspec.json.encode(opened))
        arriving.rename(place)  # whole or not at all

    def _place(self, order: TrainCandidate, precision: str) -> Path:
        made_of = (
            order.base_model,
            order.reference_model,
            order.recipe,
            order.replay_prompts,
            order.engine,
            opening_rows(),
            precision,
        )
        return self._folder / f"{hashlib.sha256(msgspec.json.encode(made_of)).hexdigest()}.json"
