"""The step `hard`: what the model that the round starts from finds hard is shown more often, and what is too hard is looked at.

Two measures, as that model knows an example or not. Of what it was trained on: the perplexity of the answer, which stays high
where the training has not reached it. (Some texts have it the other way round, that what is badly learned has a low one.) Of what
is new to it a perplexity mostly says how rare the answer's words are, so there it is the instruction-following difficulty, IFD
(Li et al. 2023, "From Quantity to Quality", arXiv 2308.12032, section 2.2): the loss of the answer behind its question over its
loss by itself. The nearer to 1 the less the question helps with the answer; from 1 on it does not help at all, and such a pair is
no hard one but one that does not belong together.

The extreme tail of both is mostly broken text: it is not shown more often. What a builder proposed of it is kept back, and its
proposal put before the annotators; once one has found it good it is learned as any other. What people said is in by right.
"""

from collections.abc import Sequence

import numpy as np

from streams.selection import Hard
from workers.selector.candidates import Decision, Instruments, OpenExample

TOO_HARD = "so hard that it may be wrong: an annotator is to look at it"


def judge(step: Hard, candidates: Sequence[OpenExample], instruments: Instruments) -> list[Decision]:
    """`number`: the perplexity of what was learned, the IFD of what is new."""
    losses = instruments.losses(candidates)
    read = [place for place in range(len(candidates)) if losses[place, 1] > 0]
    known = [place for place in read if candidates[place].learned and not instruments.anew]
    new = sorted({*read} - {*known})
    perplexity = dict(zip(known, np.exp(losses[known, 0]), strict=True))
    ifd = dict(zip(new, losses[new, 0] / losses[new, 1], strict=True))
    decided = {place: Decision(one.example_id, True) for place, one in enumerate(candidates)}
    for hardness in (perplexity, ifd):
        hardest = sorted(hardness, key=lambda place: (-hardness[place], place))
        tail, more = int(step.tail * len(hardest)), round(step.share * len(hardest))
        for rank, place in enumerate(hardest):
            one, number = candidates[place], round(float(hardness[place]), 4)
            if rank < tail:
                kept = one.source != "generated" or one.confirmed
                decided[place] = Decision(one.example_id, kept, "" if kept else TOO_HARD, number)
                continue
            harder = rank < tail + more and (hardness is perplexity or number < 1)
            decided[place] = Decision(one.example_id, True, number=number, weight=step.weight if harder else None)
    return list(decided.values())
