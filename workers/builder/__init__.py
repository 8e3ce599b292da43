"""Builders: what proposes training examples from a domain's material. One file each, and one row in `step.BUILDERS`."""
