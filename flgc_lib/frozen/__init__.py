"""The inference engine: a trained network becomes a small, fast one with the same outputs.

In reading order: `network` (what is called from outside), `layer` and `forms` (one convolution, and the exact ways to
compute it), `convert` and `fuse` (how a trained network becomes frozen layers), `autotune`, `saving`, `export`; and in
`kernel/` the machine code.
"""

from flgc_lib.frozen.network import FrozenNetwork, freeze
from flgc_lib.frozen.saving import load, save

__all__ = ["FrozenNetwork", "freeze", "load", "save"]
