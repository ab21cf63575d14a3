"""Rounding-error bounds, so that every tolerance in the suite has a reason.

A tolerance here is never chosen; it is counted. If the path from input to output is short and
the same for all inputs, the count is written down and ``gamma`` turns it into a bound. If it
depends on the data, as it does under cancellation, ``simplenet.testing.balls`` counts the roundings.

References:
    N. J. Higham, Accuracy and Stability of Numerical Algorithms, 2nd ed., SIAM, 2002:
    the model of arithmetic (2.4, 2.8), gamma_n (Lemma 3.1).
    NVIDIA, PTX ISA: ex2, div; CUDA C++ Programming Guide, "Mathematical Functions".
"""

from functools import cache

import torch

# An exponential has an error of at most 2 ulps, each at most 2 unit roundoffs: CUDA documents this for expf and
# exp, SLEEF and the C libraries promise 1 ulp.  Over every float32 of magnitude up to 88, the largest error of torch
# 2.0.1 and 2.13.0 on AVX2 is 1.07 unit roundoffs in exp and 2.53 in sigmoid.
EXP_ROUNDINGS = 4

# For CUDA, torch compiles to Triton, whose float32 is less exact than torch's own kernels.  A quotient, also in the
# sigmoid, is div.full.f32, within 2 ulps, each at most 2 unit roundoffs.  An exponential is ex2.approx.f32 of x log2 e,
# within 2^-22, which is EXP_ROUNDINGS again; but the constant and the product are rounded first, which changes the
# exponent by 2 unit roundoffs of it and the power by as much.
TRITON_ROUNDINGS = 4
TRITON_EXP_ROUNDINGS = 2  # for each unit of the exponent

# A square root is not correctly rounded everywhere: vector libraries promise 1 ulp, at most 2 unit roundoffs.  Over
# every float32 from 1 to 4, the largest error of torch 2.13.0 on AVX2 is 1.50 unit roundoffs.
SQRT_ROUNDINGS = 2


@cache
def unit_roundoff(dtype: torch.dtype) -> float:
    """Return the largest relative error of one rounding, half the spacing of numbers near 1."""
    return torch.finfo(dtype).eps / 2


@cache
def smallest_subnormal(dtype: torch.dtype) -> float:
    """Return the spacing of numbers near 0; a rounding there has an error of at most half of it."""
    return torch.finfo(dtype).tiny * torch.finfo(dtype).eps


def gamma(n: int, dtype: torch.dtype) -> float:
    """Bound the relative error left by ``n`` chained roundings.

    Args:
        n: Rounded operations on the longest path, a count.
        dtype: Floating-point type the operations run in.

    Returns:
        ``n u / (1 - n u)`` for unit roundoff ``u``, dimensionless.

    Raises:
        ValueError: If ``n u >= 1``, for which there is no bound.

    References:
        Higham 2002, Lemma 3.1.
    """
    nu = n * unit_roundoff(dtype)
    if nu >= 1:
        raise ValueError(f"{n} roundings in {dtype} have n u = {nu:.3g}, but the bound needs n u < 1")
    return nu / (1 - nu)
