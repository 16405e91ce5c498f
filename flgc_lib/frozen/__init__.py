"""The inference engine: a trained network becomes a small, fast one with the same outputs.

In reading order: `freezing` (what is called from outside) and `network` (what it returns); `layer` and `forms` (one
convolution, and the exact ways to compute it), `convert` (how it is made from a trained one); `capture`, `fuse` and
`orders` (a network as a graph, and its rewriting), `modules` (what cannot be captured), `check` (the comparison of
outputs); `autotune`, `chain` (layers in one call), `saving` and `plan`; `portable`, `export` and `engines` (for others
to run); and in `kernel/` the machine code.
"""

from flgc_lib.frozen.freezing import freeze
from flgc_lib.frozen.network import FrozenNetwork
from flgc_lib.frozen.saving import load, save

__all__ = ["FrozenNetwork", "freeze", "load", "save"]
