"""Processes are killed while people go on talking; afterwards everything must add up exactly."""
