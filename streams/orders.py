"""Orders: what a worker is asked to do. Imperative; one order, one spec, one result. Pure."""

from uuid import UUID

from msgspec import Struct

from streams.endpoints import Teacher
from streams.envelope import Number, Offset
from streams.personal import PersonalKind
from streams.recalled import Recall
from streams.recipes import Needs, Recipe
from streams.selection import USUAL, Selection
from streams.style import StyleRule


class SelectSnapshot(Struct, frozen=True, kw_only=True, tag="select_snapshot", tag_field="kind"):
    """Choose the training set from the examples that stood on the domain's partition before `pin`, of those that `base_model`
    can be trained on by `recipe` (orders of version 1 name neither: none is too long for them). `recall`: what would be recalled
    for them, as the policy has it. `opening`: none are chosen; the round teaches to use what is recalled, and nothing else.
    `selection`: by which steps (orders of versions before 8 name none, and mean what all rounds did). `mask`: the kinds of personal
    data that are masked where its words are opened. `reference_model`, `replay_prompts`: as those of the training will be."""

    order_id: UUID
    domain: str
    round_id: str
    pin: Offset
    base_model: str | None = None
    recipe: Recipe | None = None
    recall: Recall = Recall()
    opening: bool = False
    selection: Selection = USUAL
    mask: tuple[PersonalKind, ...] = ()
    reference_model: str | None = None
    replay_prompts: tuple[str, ...] = ()

    @property
    def anew(self) -> bool:
        """Whether what was learned is new to the model that the round starts from: a base."""
        return self.base_model is not None and self.base_model == self.reference_model


class TrainCandidate(Struct, frozen=True, kw_only=True, tag="train_candidate", tag_field="kind"):
    """Train on `snapshot` from `base_model`; `reference_model` (the base of what comes of it) answers the general prompts.
    `engine`: the domain's kind, for which what is made is made ready (orders of version 2 know one).
    `reward_model`: the domain's newest, where the recipe asks it."""

    order_id: UUID
    domain: str
    round_id: str
    snapshot: str
    base_model: str
    reference_model: str
    recipe: Recipe
    replay_prompts: tuple[str, ...]
    engine: str = "llamacpp"
    reward_model: str | None = None


class RebuildCandidate(Struct, frozen=True, kw_only=True, tag="rebuild_candidate", tag_field="kind"):
    """Train once more as that round did, and keep what comes of it if it is the `model` and `adapter` that it was. A `snapshot`
    that is lost is selected again, from what stood before `pin`, with `recall`, `opening`, `selection` and `mask` as that round had
    them (orders of versions 1 and 2 name none of them, of versions to 6 neither selection nor mask)."""

    order_id: UUID
    domain: str
    round_id: str
    pin: Offset
    snapshot: str
    base_model: str
    reference_model: str
    recipe: Recipe
    replay_prompts: tuple[str, ...]
    model: str
    adapter: str
    recall: Recall = Recall()
    opening: bool = False
    engine: str = "llamacpp"
    reward_model: str | None = None
    selection: Selection = USUAL
    mask: tuple[PersonalKind, ...] = ()


class EvaluateCandidate(Struct, frozen=True, kw_only=True, tag="evaluate_candidate", tag_field="kind"):
    """Examine `candidate_model` and `base_model` on the same questions, bare and, where `recall` has it, as they are served.
    `engine`: the domain's kind; `needs` and `base_needs` say whether it carries each of the two. `first_model`: the base
    of `base_model`, against which general ability is held, too; None: it is not asked. `pleases`: its recipe makes more of what is
    preferred, so that signs of pleasing alone are looked for, and `reward_model` (the domain's newest, made by `reward_round`) says
    what it finds of the answers. `style`: rules of which it is told how many answers keep each."""

    order_id: UUID
    domain: str
    round_id: str
    snapshot: str
    base_model: str
    candidate_model: str
    pin: Offset
    engine: str
    recall: Recall = Recall()
    first_model: str | None = None
    needs: Needs = "merged"
    base_needs: Needs = "merged"
    pleases: bool = False
    reward_model: str | None = None
    reward_round: str | None = None
    style: tuple[StyleRule, ...] = ()


class CompareReleases(Struct, frozen=True, kw_only=True, tag="compare_releases", tag_field="kind"):
    """Ask `base_model` and `model`, which is `release`, the same questions as of `pin`, bare and, where `recall` has it, as they
    are served. `needs` is of `model`. `round_id`: it is of none."""

    order_id: UUID
    domain: str
    release: Number
    base_model: str
    model: str
    pin: Offset
    engine: str
    recall: Recall = Recall()
    round_id: str | None = None
    needs: Needs = "merged"


class CompareBases(Struct, frozen=True, kw_only=True, tag="compare_bases", tag_field="kind"):
    """Ask these `bases` (name -> model) what the domain asks as of `pin`, and measure each: by engines of the domain's kind
    `engine` where that can serve it. `recipe`: what a round would train by. `round_id`: it is of none."""

    order_id: UUID
    domain: str
    bases: dict[str, str]
    pin: Offset
    engine: str
    recipe: Recipe
    round_id: str | None = None


class BuildMaterial(Struct, frozen=True, kw_only=True, tag="build_material", tag_field="kind"):
    """Let `builder` (`streams.builders`) propose examples from the material that stood on the domain's partition before `pin`, at
    `most` so many. `teacher` and `style`: the policy's; `decline`: what its recall says where nothing is known. `round_id`: it is
    of none."""

    order_id: UUID
    domain: str
    builder: str
    most: Number | None
    pin: Offset
    teacher: Teacher | None = None
    style: tuple[StyleRule, ...] = ()
    decline: str | None = None
    round_id: str | None = None


class SwapRelease(Struct, frozen=True, kw_only=True, tag="swap_release", tag_field="kind"):
    """Let `release` answer instead of `current` (None: the domain's first). `rollback`: it has been live before."""

    order_id: UUID
    domain: str
    release: Number
    model: str
    engine: str
    current: Number | None
    round_id: str | None
    rollback: bool = False
    needs: Needs = "merged"


class PurgePlaces(Struct, frozen=True, kw_only=True, tag="purge_places", tag_field="kind"):
    """Remove what was computed from the words that were sealed with `kids`."""

    order_id: UUID
    domain: str
    person: str
    kids: tuple[str, ...]
    round_id: str | None = None


Order = (
    SelectSnapshot
    | TrainCandidate
    | RebuildCandidate
    | EvaluateCandidate
    | CompareReleases
    | CompareBases
    | BuildMaterial
    | SwapRelease
    | PurgePlaces
)
