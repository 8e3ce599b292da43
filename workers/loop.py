"""The worker: one order in, facts out. `python -m workers.loop --kinds select,train,evaluate`

An order is claimed under a lease; a worker that dies leaves it to another, which goes on from the last checkpoint.
"""

import argparse
import logging
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from importlib import import_module
from typing import Any, get_args
from uuid import uuid5

from streams import process
from streams.connections import SHARES
from streams.disk import is_full
from streams.errors import Invalid, Unavailable
from streams.facts.orders import OrderFailed, Step
from streams.log import KafkaLog
from streams.reading.rounds import activity
from streams.sealing import Keyring, MasterKey
from streams.settings import Settings
from streams.store import open_database, postgres_trouble
from streams.structs import learn_structs
from workers import orders
from workers.context import Cancelled, Context, retry
from workers.evaluator.install import NotInstalled
from workers.evaluator.opencompass import Examiner
from workers.evaluator.step import NEAR_S, look_ahead
from workers.orders import ATTEMPTS, Claim, failure_name
from workers.reconciler import Reconciler
from workers.register import sweep
from workers.retention import Retention
from workers.trainer.parent import Trainer

RENEW_EVERY_S = 4.0
REST_FIRST_S, REST_LONGEST_S = 0.25, 1.0  # until the next look for an order, the longer the more often there was none
IDLE_RETRY_S = 60.0
INSTALLING_RETRY_S = 5.0
REST_AFTER_S = 60.0  # children that nothing has needed for so long are ended
PLACED = frozenset({"train", "evaluate", "purge"})  # the steps that make places on disk, or remove them
logger = logging.getLogger("noria.worker")

# A step carries out one order and publishes its result.
StepFunction = Callable[[Any, Context], None]


# Every kind of order: the step that it is, and the module whose `run` carries it out (loaded when a worker asks for it).
STEPS: Mapping[str, tuple[Step, str]] = {
    "select_snapshot": ("select", "workers.selector.step"),
    "train_candidate": ("train", "workers.trainer.step"),
    "rebuild_candidate": ("train", "workers.trainer.rebuild"),
    "evaluate_candidate": ("evaluate", "workers.evaluator.step"),
    "compare_releases": ("evaluate", "workers.evaluator.compare"),
    "compare_bases": ("evaluate", "workers.evaluator.bases"),
    "build_material": ("build", "workers.builder.step"),
    "swap_release": ("swap", "workers.swapper"),
    "purge_places": ("purge", "workers.register"),
}


def steps(names: Sequence[str]) -> dict[str, tuple[Step, StepFunction]]:
    """The kinds of order that the named steps take, with the functions that carry them out."""
    return {kind: (step, import_module(module).run) for kind, (step, module) in STEPS.items() if step in names}


def work_once(context: Context, table: Mapping[str, tuple[Step, StepFunction]], stopping: threading.Event) -> bool:
    """Take in what is new, and carry out one order if there is one. Raises Unavailable, LostHistory, or whatever bug a step has."""
    context.intake.take_in()
    try:
        held = orders.claim(context.database, list(table), context.worker, context.settings.host)
    except orders.Unreadable as error:
        _tell_unreadable(context, error, stopping)
        return True
    if held is None:
        return False
    step, run = table[orders.kind_of(held.order)]
    context.cancelled.clear()
    context.held = held
    finished = threading.Event()
    keeper = threading.Thread(target=_keep, args=(context, held, finished, stopping), daemon=True)
    keeper.start()
    try:
        _carry_out(context, held, step, run, stopping)
    finally:
        finished.set()
        keeper.join()
    return True


def _carry_out(context: Context, held: Claim, step: Step, run: StepFunction, stopping: threading.Event) -> None:
    order = held.order
    try:
        if held.attempt > ATTEMPTS:
            raise Invalid(f"{held.attempt - 1} attempts ended without a word")
        if held.attempt == 1 or not orders.has_result(context.database, order):
            run(order, context)
        retry(lambda: orders.finish(context.database, held, "done"), stopping)
    except Cancelled:
        if not stopping.is_set():
            retry(lambda: orders.finish(context.database, held, "cancelled"), stopping)
        else:
            orders.give_back(context.database, held, datetime.now(UTC))
    except Invalid as error:
        logger.error("order %s (%s) failed: %s", order.order_id, step, error)
        _tell_failure(context, held, step, str(error), False, stopping)
    except Unavailable as error:
        _try_again(context, held, step, str(error), stopping)
    except Exception as error:
        if is_full(error):
            _try_again(context, held, step, "the disk is full", stopping)
            return
        # A bug: say so on the log and stop. The order stays for the next process, a few times.
        _tell_failure(context, held, step, f"a bug: {type(error).__name__}", held.attempt < 3, stopping)
        raise


def _try_again(context: Context, held: Claim, step: Step, reason: str, stopping: threading.Event) -> None:
    logger.warning("order %s (%s): %s", held.order.order_id, step, reason)
    _tell_failure(context, held, step, reason, held.attempt < ATTEMPTS, stopping)


def _tell_unreadable(context: Context, error: orders.Unreadable, stopping: threading.Event) -> None:
    """Say that the order failed, so that its round ends; no worker stops for it."""
    order = error.outline
    logger.error("order %s cannot be read: %s", order.order_id, error)
    event = OrderFailed(
        domain=order.domain,
        round_id=order.round_id,
        order_id=order.order_id,
        step=None,
        reason=f"the order cannot be read: {error}"[:500],
        will_retry=False,
        attempt=error.attempt,
    )
    said = (uuid5(order.order_id, failure_name(error.attempt)), event)
    retry(lambda: context.say([said], order.round_id or order.domain, order.order_id), stopping)
    retry(lambda: orders.give_up(context.database, order.order_id), stopping)


def _tell_failure(
    context: Context, held: Claim, step: Step, reason: str, will_retry: bool, stopping: threading.Event
) -> None:
    event = OrderFailed(
        domain=held.order.domain,
        round_id=held.order.round_id,
        order_id=held.order.order_id,
        step=step,
        reason=reason[:500],
        will_retry=will_retry,
        attempt=held.attempt,
    )
    retry(lambda: context.publish(held.order, event, failure_name(held.attempt)), stopping)
    if will_retry:
        later = datetime.now(UTC) + timedelta(seconds=min(60.0, 2.0**held.attempt))
        retry(lambda: orders.give_back(context.database, held, later), stopping)
    else:
        retry(lambda: orders.finish(context.database, held, "failed"), stopping)


def _keep(context: Context, held: Claim, finished: threading.Event, stopping: threading.Event) -> None:
    """Renew the lease until the order is finished; drop the order when it is ours no more, or the worker stops."""
    while not finished.wait(RENEW_EVERY_S):
        try:
            if stopping.is_set() or not orders.renew(context.database, held):
                context.cancelled.set()
        except Unavailable:
            continue  # PostgreSQL is away: the lease may run out, and then the result is repeated, not doubled


class Idle:
    """What is worth doing while no order waits: letting the live releases answer their exams, and starting the children of a
    round that may begin within a minute. A failure harms nobody, and waits before the next try."""

    def __init__(self, context: Context, kinds: Sequence[str], stopping: threading.Event) -> None:
        """`kinds`: of the orders that come first."""
        self._context = context
        self._kinds = kinds
        self._stopping = stopping
        self._not_before = 0.0
        self._wanted_at = time.monotonic()

    def work(self) -> bool:
        """Whether anything was examined."""
        if time.monotonic() < self._not_before:
            return False
        try:
            wanted = self._get_ready()
            examined = look_ahead(self._context, self._called_away)
            if wanted or examined:
                self._wanted_at = time.monotonic()
            elif time.monotonic() - self._wanted_at > REST_AFTER_S:
                self._context.dismiss()
            return examined
        except NotInstalled:
            self._not_before = time.monotonic() + INSTALLING_RETRY_S
            return False
        except (Invalid, Unavailable) as error:
            logger.warning("ahead of the next round: %s", error)
            self._not_before = time.monotonic() + IDLE_RETRY_S
            return False

    def _called_away(self) -> bool:
        self._context.intake.take_in()
        self._get_ready()
        return self._stopping.is_set() or orders.waiting(self._context.database, self._kinds)

    def _get_ready(self) -> bool:
        """Trainer and examiner take a core each for a quarter of a minute to start: time that a round need not wait for.
        Whether a round needs them, or will."""
        context = self._context
        with postgres_trouble(), context.database.connect() as connection:
            rounds = activity(connection, NEAR_S)
        if rounds.near and not (context.trainer and context.trainer.waits()):
            context.trainer = Trainer()
        if rounds.near and not (context.examiner and context.examiner.waits()):
            context.examiner = Examiner(context.settings.opencompass)
        return rounds.near or rounds.running


def _reconcile(context: Context, stopping: threading.Event, trouble: list[Exception]) -> None:
    """Beside the orders, as one of them may wait for minutes. What cannot go on stops the process: `trouble` says why."""
    try:
        Reconciler(context).keep(stopping)
    except Exception as error:
        trouble.append(error)
        stopping.set()


def work(kinds: Sequence[str], settings: Settings, stopping: threading.Event) -> None:
    """Carry out the orders of these steps until told to stop. Raises LostHistory, or whatever bug a step has."""
    share = SHARES["swapper" if "swap" in kinds else "builder" if list(kinds) == ["build"] else "worker"]
    database = open_database(settings.database_url, share)
    keyring = Keyring(database, MasterKey(settings.master_key))
    name = f"{settings.host}-{os.getpid()}"
    context = Context(settings, database, KafkaLog(settings.kafka, f"noria-{kinds[0]}"), keyring, name)
    table = steps(kinds)
    idle = Idle(context, list(table), stopping) if "train" in kinds and "evaluate" in kinds else None
    retention = Retention(context)
    trouble: list[Exception] = []
    learn_structs()

    def leave() -> None:
        stopping.wait()
        context.cancelled.set()

    threading.Thread(target=leave, name="leave", daemon=True).start()
    if "swap" in kinds:
        arguments = (context, stopping, trouble)
        threading.Thread(target=_reconcile, args=arguments, name="reconciler", daemon=True).start()

    rest_s = REST_FIRST_S

    def step() -> None:
        nonlocal rest_s
        worked = work_once(context, table, stopping)
        if PLACED.intersection(kinds):
            sweep(context.database, context.settings.host, context.settings.home / "training")
        if "train" in kinds:
            retention.step()
        if worked or (idle and idle.work()):
            rest_s = REST_FIRST_S
        else:
            stopping.wait(rest_s)
            rest_s = min(1.25 * rest_s, REST_LONGEST_S)

    with suppress(Cancelled):
        process.keep(step, stopping)
    context.close()
    if trouble:
        raise trouble[0]


def main() -> int:
    every: tuple[Step, ...] = get_args(Step)
    parser = argparse.ArgumentParser(prog="python -m workers.loop", description=__doc__)
    parser.add_argument("--kinds", default=",".join(every), help="steps to carry out, by comma (default: all)")
    kinds = parser.parse_args().kinds.split(",")
    if unknown := [kind for kind in kinds if kind not in every]:
        parser.error(f"no such step: {', '.join(unknown)}; there are {', '.join(every)}")
    return process.run(partial(work, kinds))


if __name__ == "__main__":
    raise SystemExit(main())
