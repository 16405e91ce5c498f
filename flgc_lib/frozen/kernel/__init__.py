"""The indirect convolution by Numba: `indirect` plans, `geometry` cuts, `loops` walk, `microkernel` multiplies.

`program` puts layers into one call, `pairs` multiplies in bf16, `shapes` is what the processor can do.
"""

from flgc_lib.frozen.kernel.indirect import IndirectConvolution
from flgc_lib.frozen.kernel.loops import threads_to_use
from flgc_lib.frozen.kernel.program import Program, Step
from flgc_lib.frozen.kernel.shapes import BF16

__all__ = ["BF16", "IndirectConvolution", "Program", "Step", "threads_to_use"]
