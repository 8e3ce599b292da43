"""Rotary positions on both sides: the order of rows, and the scaling of frequencies."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from workers.models.weights import Array


def interleave(weight: Array, heads: int) -> Array:
    """Rows of a query or key projection, shape (rows, ...), from transformers' order (first halves of all pairs, then second
    halves) to llama.cpp's (pairs side by side), in each of `heads`. Left out, the model stays fluent and is wrong."""
    rows = weight.shape[0]
    return weight.reshape(heads, 2, rows // heads // 2, *weight.shape[1:]).swapaxes(1, 2).reshape(weight.shape)


def separate(weight: Array, heads: int) -> Array:
    """The inverse of `interleave`."""
    rows = weight.shape[0]
    return weight.reshape(heads, rows // heads // 2, 2, *weight.shape[1:]).swapaxes(1, 2).reshape(weight.shape)


def llama3_factors(scaling: Mapping[str, Any], theta: float, rotated: int) -> Array:
    """Divisors of the rotation frequencies, shape (rotated / 2,), as llama.cpp's tensor `rope_freqs.weight` holds them. The formula
    is that of Llama 3.1."""
    factor, low, high = (float(scaling[key]) for key in ("factor", "low_freq_factor", "high_freq_factor"))
    original = float(scaling["original_max_position_embeddings"])
    frequencies = theta ** -(np.arange(0, rotated, 2, dtype=np.float64) / rotated)
    turns = original * frequencies / (2 * np.pi)  # rotations within the original context
    smooth = np.clip((turns - low) / (high - low), 0.0, 1.0)
    factors: Array = (1.0 / ((1.0 - smooth) / factor + smooth)).astype(np.float32)
    return factors
