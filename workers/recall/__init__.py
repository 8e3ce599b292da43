"""Recall: what a domain is remembered by, held ready to be put before its model."""
