"""bfloat16 as numpy can hold it: the upper half of a float32's bits."""

from __future__ import annotations

import numpy as np

NAN = np.uint16(0x7FC0)


def encode(values: np.ndarray, bits: np.ndarray) -> None:
    """Write the bits of ``values`` (any float) into ``bits``, uint16. Raises ValueError if a value is no bfloat16."""
    halves = np.ascontiguousarray(values, dtype="<f4").view("<u2").reshape(*values.shape, 2)
    if halves[..., 0].any():
        raise ValueError("values are not bfloat16 values, so they cannot be kept exactly in two bytes")
    bits[...] = halves[..., 1]


def decode(bits: np.ndarray, out: np.ndarray) -> None:
    """Write the values of ``bits`` into ``out``, float32 or float64."""
    if out.dtype == np.dtype("<f4"):
        np.left_shift(bits, 16, out=out.view("<u4"), dtype="<u4", casting="unsafe")
    else:
        out[...] = (bits.astype("<u4") << 16).view("<f4")
