"""Slow things: one order in, facts out."""
