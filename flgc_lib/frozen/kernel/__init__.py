"""The indirect convolution, compiled by Numba.

`indirect` plans, `geometry` cuts maps into tiles, `loops` walk over them, `microkernel` multiplies.
"""
