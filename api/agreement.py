"""How far annotators agree beyond chance: Krippendorff's alpha for nominal values, with any number of annotators and gaps
(Krippendorff, "Computing Krippendorff's Alpha-Reliability", 2011). Pure."""

from collections.abc import Iterable, Mapping

from msgspec import Struct


class Agreement(Struct, frozen=True):
    """`alpha`: 1 is perfect, 0 is chance; None, where everybody always said the same one thing, or nobody judged what another did.
    Of `items` that two or more judged, they said the same of `agreed`."""

    alpha: float | None
    items: int
    agreed: int


def agreement(units: Iterable[tuple[Mapping[str, int], int]]) -> Agreement:
    """`units`: how many said each value of an item, and how many items there are of which that is so."""
    counted = [(said, number) for said, number in units if number and sum(said.values()) > 1]
    values = sorted({value for said, _ in counted for value, times in said.items() if times})
    items = sum(number for _, number in counted)
    agreed = sum(number for said, number in counted if max(said.values()) == sum(said.values()))
    if len(values) < 2:
        return Agreement(None, items, agreed)
    # What it computes with takes a while to load, and most of what the door does needs none of it.
    import krippendorff
    import numpy as np

    table = np.repeat(
        [[said.get(value, 0) for value in values] for said, _ in counted], [number for _, number in counted], axis=0
    )
    alpha = krippendorff.alpha(value_counts=table, level_of_measurement="nominal")
    return Agreement(float(alpha), items, agreed)
