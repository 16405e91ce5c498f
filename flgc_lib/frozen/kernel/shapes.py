"""What this processor can do, and the shapes of tiles that suit it."""

from typing import NamedTuple

import llvmlite.binding

_FEATURES = llvmlite.binding.get_host_cpu_features()
FEATURES = f"{llvmlite.binding.get_host_cpu_name()} {_FEATURES.flatten()}"
"""What this processor can do."""

BF16 = bool(_FEATURES.get("avx512bf16"))
"""Whether this processor multiplies numbers in bf16."""

LANES = 16 if _FEATURES.get("avx512f") else 8 if _FEATURES.get("avx") else 4
"""Floats in a vector register of this processor."""
MOST_FILTERS = 4 if LANES == 8 else 8
"""Filters of the largest tile: two vectors of each fill half of the 32 registers of AVX-512 and NEON, AVX2 has 16."""


class Shape(NamedTuple):
    """The pixels of a tile."""

    vectors: int
    lanes: int
    """Pixels of a vector."""
    rows: int
    """From how many rows of the map a vector is put together, at most: the ends of rows would else leave lanes empty.

    QUARTERS of them are all of one length, a quarter of a vector.
    """


QUARTERS = 4
SHAPES = [Shape(vectors, LANES, rows) for vectors in (2, 1) for rows in (1, 2, 3)]
SHAPES += [Shape(1, LANES, QUARTERS)] if LANES > QUARTERS else []
SHAPES += [Shape(1, lanes, 1) for lanes in (LANES // 2, 4, 1) if lanes < LANES]
SHAPES = sorted(set(SHAPES), key=lambda shape: (-shape.vectors * shape.lanes, shape.rows))
"""Those that cover the most lead, and among them those that are put together from the fewest rows."""
