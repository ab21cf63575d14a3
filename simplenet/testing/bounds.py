"""Rounding-error bounds, so that every tolerance in the suite has a reason.

A tolerance here is never chosen; it is counted. Where the path from input to output is short and
the same for all inputs, the count is written down and ``gamma`` turns it into a bound. Where it
depends on the data, as it does under cancellation, ``simplenet.testing.balls`` does the counting.

References:
    N. J. Higham, Accuracy and Stability of Numerical Algorithms, 2nd ed., SIAM, 2002:
    the model of arithmetic (2.4, 2.8), gamma_n (Lemma 3.1).
    NVIDIA, PTX ISA: ex2, div; CUDA C++ Programming Guide, "Mathematical Functions".
"""

from functools import cache

import torch

# An exponential errs by at most 2 ulps, each up to 2 unit roundoffs: CUDA documents that for expf and
# exp, SLEEF and the C libraries promise 1.  Over every float32 of magnitude up to 88, torch 2.0.1 and
# 2.13.0 on AVX2 err by at most 1.07 unit roundoffs in exp and 2.53 in sigmoid.
EXP_ROUNDINGS = 4


# What torch compiles for CUDA is Triton's, and in float32 less exact than torch's own kernels.  A quotient, its
# sigmoid's too, is div.full.f32, within 2 ulps, each up to 2 unit roundoffs.  An exponential is ex2.approx.f32 of
# x log2 e, within 2^-22, which is EXP_ROUNDINGS again; but the constant and the product are rounded first, and the
# power errs by what they err in the exponent, 2 unit roundoffs of it.
TRITON_ROUNDINGS = 4
TRITON_EXP_ROUNDINGS = 2  # for each unit of the exponent


# A root is not rounded correctly everywhere: vector libraries promise 1 ulp, up to 2 unit roundoffs.  Over every
# float32 from 1 to 4, torch 2.13.0 on AVX2 errs by up to 1.50.
SQRT_ROUNDINGS = 2


@cache
def unit_roundoff(dtype: torch.dtype) -> float:
    """Return the largest relative error of one rounding, half the spacing of numbers near 1."""
    return torch.finfo(dtype).eps / 2


@cache
def smallest_subnormal(dtype: torch.dtype) -> float:
    """Return the spacing of numbers near 0; one rounding there errs by at most half of it."""
    return torch.finfo(dtype).tiny * torch.finfo(dtype).eps


def gamma(n: int, dtype: torch.dtype) -> float:
    """Bound the relative error left by ``n`` chained roundings.

    Args:
        n: Rounded operations on the longest path, a count.
        dtype: Floating-point type the operations run in.

    Returns:
        ``n u / (1 - n u)`` for unit roundoff ``u``, dimensionless.

    Raises:
        ValueError: If ``n u >= 1``, where the bound says nothing.

    References:
        Higham 2002, Lemma 3.1.
    """
    nu = n * unit_roundoff(dtype)
    if nu >= 1:
        raise ValueError(f"{n} roundings in {dtype} have n u = {nu:.3g}, but the bound needs n u < 1")
    return nu / (1 - nu)
