"""What people corrected, then what they prefer.

The first adapter is merged, and the second one learned on the model that came of it. Going on with the same adapter would make the
reference of `dpo` a model that is nowhere any more; merged, it is the model that the second stage begins with, whose
log-probabilities are taken before its first step, and either stage is the training that it is by itself.
"""

from collections.abc import Sequence

from msgspec.structs import replace

from streams.recipes import DpoRecipe, LoraRecipe, SftDpoRecipe
from workers.trainer.job import Job
from workers.trainer.preference import TooFew, check_preferred, nothing_preferred
from workers.trainer.spec import Outcome
from workers.trainer.stages import Stage, joined, run_stages


def train(job: Job) -> Outcome:
    """The merged model comes to lie in the folder of the last stage. Where nobody corrected anything, or too little is preferred,
    the other stage is all there is."""
    assert isinstance(job.recipe, SftDpoRecipe)
    stages = stages_of(job.recipe)
    try:
        check_preferred(job)
    except TooFew:
        if not job.rows:
            raise
        made = run_stages(job, stages[:1])
        outcome = joined(stages[:1], made)
        return replace(outcome, metrics=outcome.metrics | nothing_preferred(job))
    stages = stages if job.rows else stages[1:]
    return joined(stages, run_stages(job, stages))


def stages_of(recipe: SftDpoRecipe) -> list[Stage]:
    own = {name: getattr(recipe, name) for name in DpoRecipe.__struct_fields__}
    sft = LoraRecipe(**{name: own[name] for name in LoraRecipe.__struct_fields__})
    dpo = DpoRecipe(**own | {"learning_rate": recipe.dpo_learning_rate, "epochs": recipe.dpo_epochs})
    return [Stage("sft", sft), Stage("dpo", dpo, _corrections_as_earlier)]


def _corrections_as_earlier(job: Job, before: Sequence[Outcome]) -> Job:
    """Each of them is known by now, in all its wordings, and comes again so that it is not forgotten."""
    return replace(job, rows=(), earlier=job.rows + job.earlier)
