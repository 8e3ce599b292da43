"""Choosing what a round learns from: each way of choosing is one file, and a reason is given for every example."""
