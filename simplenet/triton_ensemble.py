"""Steps of many networks on CUDA in one Triton kernel, which holds each network in the registers of one thread.

With one kernel for each step, every step reads and writes the 51 numbers of a network's state in global memory for
some 500 operations. This kernel reads them once, takes all steps, and writes them once.

Imported only where Triton is installed; it comes with torch's CUDA wheels.

References:
    The notebook, §4 to §4.3; ``simplenet.formulas.Formulas`` has the same formulas for torch.
    P. Tillet, H. T. Kung and D. Cox, Triton: An Intermediate Language and Compiler for Tiled Neural Network
    Computations, MAPL 2019, doi 10.1145/3315508.3329973.
"""

# ruff: noqa: ANN001, ANN202, N803, PLR0913, PLR0917 - a kernel has Triton's types and names, and many symbols

import torch
import triton
import triton.language as tl
from torch import Tensor, nn

from simplenet.ensemble import NEVER, State
from simplenet.formulas import BETA1, BETA2, EPSILON
from simplenet.model import ARCHITECTURES, Architecture

# The widest hidden layer: the state of a wider network does not fit in the 255 registers of a thread.
MAX_HIDDEN = 8

# Warps in a program, one thread for each network: with whole warps, Triton puts all units of a network in one thread.
# On an H100 one warp is the fastest: 64 ps a network and step, against 72 with two, 126 with four, 166 with eight.
_WARPS = 1

_BETA1, _BETA2, _EPSILON, _NEVER = (tl.constexpr(number) for number in (BETA1, BETA2, EPSILON, NEVER))


@triton.jit
def _value(z, SIGMOID: tl.constexpr):
    """Apply the sigmoid or the identity; ``tl.sigmoid`` would divide only approximately."""
    if SIGMOID:
        z = tl.div_rn(tl.full(z.shape, 1.0, tl.float32), 1.0 + tl.exp(-z))
    return z


@triton.jit
def _times_slope(d, a, SIGMOID: tl.constexpr):
    """Multiply by the derivative of the activation function, in terms of its value."""
    if SIGMOID:
        d = d * (a * (1.0 - a))
    return d


@triton.jit
def _row(z, w_out, b_out, y, share, HIDDEN_SIGMOID: tl.constexpr, OUTPUT_SIGMOID: tl.constexpr):
    """Compute the forward and backward pass for one row of the truth table.

    Returns:
        Whether the prediction is right, the values of the hidden layer, and the derivatives of the loss by the
        pre-activations of the hidden layer and of the output.
    """
    h = _value(z, HIDDEN_SIGMOID)
    y_hat = _value(tl.sum(w_out * h, 0) + b_out, OUTPUT_SIGMOID)
    error = y_hat - y
    d_out = _times_slope(share * error, y_hat, OUTPUT_SIGMOID)
    d_in = _times_slope(d_out[None, :] * w_out, h, HIDDEN_SIGMOID)
    return 2 * tl.abs(error) < 1, h, d_in, d_out


@triton.jit
def _adam(w, m, v, g, step_size, correction):
    """Return a parameter and its moments after a step along ``g``."""
    m = m + (1 - _BETA1) * (g - m)
    v = v * _BETA2 + (1 - _BETA2) * g * g
    root = tl.div_rn(tl.sqrt_rn(v), tl.full(v.shape, 0.0, tl.float32) + correction)
    return w + tl.div_rn(step_size * m, root + _EPSILON), m, v


@triton.jit
def _load(w, m, v, at, mask):
    return tl.load(w + at, mask, 0.0), tl.load(m + at, mask, 0.0), tl.load(v + at, mask, 0.0)


@triton.jit
def _store(w_ptr, m_ptr, v_ptr, at, mask, w, m, v):
    tl.store(w_ptr + at, w, mask)
    tl.store(m_ptr + at, m, mask)
    tl.store(v_ptr + at, v, mask)


@triton.jit(do_not_specialize=["begin", "end"])
def _take_steps(
    weights,
    m,
    v,
    since,
    weights_after,
    m_after,
    v_after,
    since_after,
    rows,
    begin,
    end,
    n,
    HIDDEN: tl.constexpr,
    UNITS: tl.constexpr,
    HIDDEN_SIGMOID: tl.constexpr,
    OUTPUT_SIGMOID: tl.constexpr,
    NETWORKS: tl.constexpr,
):
    """Take the steps ``begin`` to ``end - 1`` of ``n`` networks; ``rows`` are those of the schedule.

    The hidden layer is padded to ``UNITS``, a power of two, with units whose parameters are and stay 0.
    """
    net = tl.program_id(0) * NETWORKS + tl.arange(0, NETWORKS)
    unit = tl.arange(0, UNITS)[:, None]
    on = net < n
    there = (unit < HIDDEN) & on[None, :]
    w1_at, w2_at = (2 * unit) * n + net[None, :], (2 * unit + 1) * n + net[None, :]
    b_in_at, w_out_at = (2 * HIDDEN + unit) * n + net[None, :], (3 * HIDDEN + unit) * n + net[None, :]
    b_out_at = 4 * HIDDEN * n + net
    w1, w1_m, w1_v = _load(weights, m, v, w1_at, there)
    w2, w2_m, w2_v = _load(weights, m, v, w2_at, there)
    b_in, b_in_m, b_in_v = _load(weights, m, v, b_in_at, there)
    w_out, w_out_m, w_out_v = _load(weights, m, v, w_out_at, there)
    b_out, b_out_m, b_out_v = _load(weights, m, v, b_out_at, on)
    solved = tl.load(since + net, on, _NEVER)
    t = begin
    while t < end:
        step_size, correction = tl.load(rows), tl.load(rows + 1)
        right0, h0, d_in0, d_out0 = _row(b_in, w_out, b_out, 0.0, tl.load(rows + 2), HIDDEN_SIGMOID, OUTPUT_SIGMOID)
        z = w2 + b_in
        right1, h1, d_in1, d_out1 = _row(z, w_out, b_out, 1.0, tl.load(rows + 3), HIDDEN_SIGMOID, OUTPUT_SIGMOID)
        z = w1 + b_in
        right2, h2, d_in2, d_out2 = _row(z, w_out, b_out, 1.0, tl.load(rows + 4), HIDDEN_SIGMOID, OUTPUT_SIGMOID)
        z = w1 + w2 + b_in
        right3, h3, d_in3, d_out3 = _row(z, w_out, b_out, 0.0, tl.load(rows + 5), HIDDEN_SIGMOID, OUTPUT_SIGMOID)
        solved = tl.where(right0 & right1 & right2 & right3, tl.where(solved == _NEVER, t, solved), _NEVER)
        g_out = d_out0[None, :] * h0 + d_out1[None, :] * h1 + d_out2[None, :] * h2 + d_out3[None, :] * h3
        g_out = tl.where(there, g_out, 0.0)  # the value of a padding unit is that of the activation at 0
        w1, w1_m, w1_v = _adam(w1, w1_m, w1_v, d_in2 + d_in3, step_size, correction)
        w2, w2_m, w2_v = _adam(w2, w2_m, w2_v, d_in1 + d_in3, step_size, correction)
        b_in, b_in_m, b_in_v = _adam(b_in, b_in_m, b_in_v, d_in0 + d_in1 + d_in2 + d_in3, step_size, correction)
        w_out, w_out_m, w_out_v = _adam(w_out, w_out_m, w_out_v, g_out, step_size, correction)
        g_b = d_out0 + d_out1 + d_out2 + d_out3
        b_out, b_out_m, b_out_v = _adam(b_out, b_out_m, b_out_v, g_b, step_size, correction)
        rows += 6
        t += 1
    _store(weights_after, m_after, v_after, w1_at, there, w1, w1_m, w1_v)
    _store(weights_after, m_after, v_after, w2_at, there, w2, w2_m, w2_v)
    _store(weights_after, m_after, v_after, b_in_at, there, b_in, b_in_m, b_in_v)
    _store(weights_after, m_after, v_after, w_out_at, there, w_out, w_out_m, w_out_v)
    _store(weights_after, m_after, v_after, b_out_at, on, b_out, b_out_m, b_out_v)
    tl.store(since_after + net, solved, on)


def run(architecture: Architecture, hidden: int, t: Tensor, end: Tensor, state: State, block: Tensor) -> State:
    """Take the steps ``t`` to ``end - 1``, which are in one block of the schedule; return the new state.

    Args:
        architecture: As for ``SimpleNet``.
        hidden: As for ``SimpleNet``, at most ``MAX_HIDDEN``.
        t: Steps taken so far, a count.
        end: Steps taken when this returns, a count.
        state: The state after ``t`` steps, in float32; it is not changed.
        block: The block of ``schedule`` with these steps.
    """
    state = State(*(part.contiguous() for part in state))
    after = State(*map(torch.empty_like, state))
    hidden_sigmoid, output_sigmoid = (activation is nn.Sigmoid for activation in ARCHITECTURES[architecture])
    begin, networks = int(t), len(state.since)
    with torch.cuda.device_of(block):  # type: ignore[no-untyped-call]
        _take_steps[triton.cdiv(networks, 32 * _WARPS),](
            *state,
            *after,
            block[begin % len(block) :],
            begin,
            int(end),
            networks,
            HIDDEN=hidden,
            UNITS=triton.next_power_of_2(hidden),
            HIDDEN_SIGMOID=hidden_sigmoid,
            OUTPUT_SIGMOID=output_sigmoid,
            NETWORKS=32 * _WARPS,
            num_warps=_WARPS,
        )
    return after
