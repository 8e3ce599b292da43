"""A candidate whose model and adapter were removed is made again: by the same training, and kept only if the same comes of it."""

from pathlib import Path

from streams.artifacts import digest_of_dir
from streams.errors import Invalid
from streams.facts.releases import CandidateRebuilt
from streams.orders import RebuildCandidate, SelectSnapshot, TrainCandidate
from streams.snapshots import save
from workers.context import Context
from workers.register import strike
from workers.selector.step import select
from workers.trainer.step import train


def run(order: RebuildCandidate, context: Context) -> None:
    for model in (order.base_model, order.reference_model):
        if not context.artifacts.has(model):
            raise Invalid(f"the model {model}, from which it was trained, is not on the disk any more")
    made = train(
        TrainCandidate(
            order_id=order.order_id,
            domain=order.domain,
            round_id=order.round_id,
            snapshot=_snapshot(order, context),
            base_model=order.base_model,
            reference_model=order.reference_model,
            recipe=order.recipe,
            replay_prompts=order.replay_prompts,
            engine=order.engine,
            reward_model=order.reward_model,
        ),
        context,
    )
    model_dir, adapter_dir = Path(made.result.model_dir), Path(made.result.adapter_dir)
    model, adapter = digest_of_dir(model_dir), digest_of_dir(adapter_dir)
    equal = (model, adapter) == (order.model, order.adapter)
    with context.keeping():
        if equal:
            context.artifacts.put_dir(model_dir)
            context.artifacts.put_dir(adapter_dir)
        event = CandidateRebuilt(
            domain=order.domain,
            round_id=order.round_id,
            order_id=order.order_id,
            equal=equal,
            model=model,
            adapter=adapter,
            erased=made.erased,
            duration_s=round(made.result.seconds, 1),
            made_with=made.made_with,
        )
        context.publish(order, event, "candidate_rebuilt")
    strike(context.database, context.settings.host, str(made.folder))


def _snapshot(order: RebuildCandidate, context: Context) -> str:
    """The round's own, which no policy removes; one that is lost is selected again."""
    if context.artifacts.has(order.snapshot):
        return order.snapshot
    again = SelectSnapshot(
        order_id=order.order_id,
        domain=order.domain,
        round_id=order.round_id,
        pin=order.pin,
        base_model=order.base_model,
        recipe=order.recipe,
        recall=order.recall,
        opening=order.opening,
        selection=order.selection,
        mask=order.mask,
        reference_model=order.reference_model,
        replay_prompts=order.replay_prompts,
    )
    return save(select(again, context), context.artifacts)
