"""`noria plan`."""

import os
from pathlib import Path
from typing import Any

import click
import msgspec
from msgspec.structs import replace

from api.cli.context import json_option, print_json, print_table
from streams.errors import Invalid
from streams.hardware import HERE, facts, hardware_of
from streams.settings import home_of
from streams.sizing import FP32, PARTS, USUAL, Plan, Shape, plan, refusal, shape_of


@click.command("plan", short_help="What a way of training would cost: memory by part, time, price.")
@click.option(
    "--base", required=True, metavar="NAME|FOLDER", help="A base prepared here, a model folder, or a known model."
)
@click.option("--method", type=click.Choice(list(USUAL)), default="lora", show_default=True)
@click.option("--examples", type=click.IntRange(1), default=48, show_default=True, help="New ones of the round.")
@click.option(
    "--tokens", type=click.IntRange(1), default=64, show_default=True, help="Of one example, question and answer."
)
@click.option("--rank", type=click.IntRange(1, 1024), help="LoRA's.")
@click.option("--batch", type=click.IntRange(1, 1024), help="Rows of one step.")
@click.option("--checkpointed", is_flag=True, help="Keep only what enters each layer, and compute the rest again.")
@click.option("--sharded", is_flag=True, help="Deal the weights among the cards, too (NORIA_TRAINING_SHARDED).")
@click.option("--hardware", default=HERE, show_default=True, help="This machine, a card, or several (4xa100-80gb).")
@click.option("--price", type=click.FloatRange(0), help="Of one card and hour, in place of the file's.")
@json_option
def plan_command(
    base: str,
    method: str,
    examples: int,
    tokens: int,
    rank: int | None,
    batch: int | None,
    checkpointed: bool,
    sharded: bool,
    hardware: str,
    price: float | None,
    as_json: bool,
) -> None:
    """Say what a training would take before it is begun, from the shape of the base; nothing is loaded, and nothing need run.

    Exit code 1 where it does not fit: the part that breaks it is named, and the nearest plan that fits.

    \b
    Example: noria plan --base chatglm3-6b --method lora --examples 1000 --tokens 256 --hardware a100-80gb
    """
    there = hardware_of(hardware, price)
    usual = USUAL[method]
    rows = batch or usual.rows_at_once
    changes: dict[str, Any] = {
        "examples": examples,
        "row_tokens": tokens,
        "answer_tokens": max(1, tokens // 2),
        "rows_at_once": rows,
        "batch_rows": min(rows, usual.batch_rows),
        "checkpointed": checkpointed,
        "sharded": sharded,
        "rank": rank or usual.rank,
    }
    if there.on_host:
        changes |= {"weight_bytes": FP32, "parts": min(2, os.cpu_count() or 1)}
    found = plan(base, _shape(base), replace(usual, **changes), there)
    known = facts()
    if as_json:
        print_json(msgspec.to_builtins(found) | {"prices_as_of": known.as_of, "currency": known.currency})
    else:
        print_table(["part", "GB"], _lines(found))
        click.echo(
            f"{found.method} on {found.hardware}: {found.learned:,} numbers learn in {found.steps:,} steps; about"
            f" {_span(found.seconds)}, {found.price:.2f} {known.currency} at prices of {known.as_of}"
        )
    if not found.fits:
        raise Invalid(refusal(found, there))


def _lines(found: Plan) -> list[list[str]]:
    parts = [[name, f"{found.memory_gb[name]:.2f}"] for name in PARTS]
    return [
        *parts,
        ["while it is written (host)", f"{found.saving_gb:.2f}"],
        ["most at once", f"{found.peak_gb:.2f}"],
        *([f"served: {name}", f"{size:.2f}"] for name, size in found.serving_gb.items()),
    ]


def _span(seconds: float) -> str:
    return (
        f"{seconds:.0f} s"
        if seconds < 120
        else f"{seconds / 60:.0f} min"
        if seconds < 7200
        else f"{seconds / 3600:.1f} h"
    )


def _shape(base: str) -> Shape:
    """Of a base that was prepared here, of a model folder, or of a model whose shape is known."""
    home = home_of(os.environ)
    index = home / "models" / "index.json"
    prepared = msgspec.json.decode(index.read_bytes(), type=dict[str, str]) if index.exists() else {}
    known = facts().bases
    folder = Path(base)
    if base in prepared:
        folder = home / "artifacts" / prepared[base].replace(":", os.sep)
    elif base in known:
        return known[base]
    try:
        return shape_of(msgspec.json.decode((folder / "config.json").read_bytes(), type=dict[str, Any]))
    except (OSError, msgspec.DecodeError):
        names = ", ".join([*prepared, *(name for name in known if name not in prepared)])
        raise Invalid(f"there is no base {base!r} with a config.json; known are {names}") from None


COMMANDS = [plan_command]
