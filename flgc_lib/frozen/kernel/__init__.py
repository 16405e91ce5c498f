"""The indirect convolution, compiled by Numba: `indirect` plans, `loops` walk, `microkernel` multiplies."""
