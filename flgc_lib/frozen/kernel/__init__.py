"""The indirect convolution by Numba: `indirect` plans, `geometry` cuts, `loops` walk, `microkernel` multiplies."""
