"""Imported by the process that `tests.forked` forks from. Nothing is computed here: threads do not live on in a fork."""

from workers.trainer.child import load

load()
