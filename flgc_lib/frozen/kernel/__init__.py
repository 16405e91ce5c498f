"""The indirect convolution, compiled by Numba: `indirect` plans, `geometry` cuts, `loops` walk, `microkernel` multiplies."""
