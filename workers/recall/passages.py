"""Passages as memories: found by the title and place that they stand under as well as by their words."""

from streams.recalled import Memory
from workers.recall.index import Memory as Known


def known_passage(passage_id: str, memory: Memory) -> Known:
    return Known(passage_id, "passage", (), " ".join(part for part in (memory.source, memory.text) if part))
