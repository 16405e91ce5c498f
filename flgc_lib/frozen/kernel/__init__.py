"""The indirect convolution by Numba: `indirect` plans, `geometry` cuts, `loops` walk, `microkernel` multiplies.

`program` puts layers into one call.
"""

from flgc_lib.frozen.kernel.indirect import IndirectConvolution, shared_by
from flgc_lib.frozen.kernel.program import Program, Step

__all__ = ["IndirectConvolution", "Program", "Step", "shared_by"]
