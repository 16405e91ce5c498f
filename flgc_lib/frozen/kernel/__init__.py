"""The indirect convolution by Numba: `indirect` plans, `geometry` cuts, `loops` walk, `microkernel` multiplies.

`pairs` is the same in bf16, `shapes` what the processor can do.
"""
