"""The notebook's networks pass the checks of ``simplenet.testing`` for drawn seeds and batch sizes."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from simplenet.testing.network import CHECKS, NetworkStudy
from simplenet.testing.report import Status
from simplenet.testing.runner import Recorder, run
from simplenet.testing.settings import default_dtype
from simplenet.testing.strategies import seeds

# A single row has no neighbours; above 16, kernels use vectors.
row_counts = st.integers(2, 35)


# Resuming takes a second, and is checked once in tests/meta/test_testing_network.py.
@pytest.mark.parametrize("check", [check for check in CHECKS if check.name != "it resumes under lightning"], ids=str)
@given(seed=seeds, rows=row_counts, dtype=st.sampled_from([torch.float32, torch.float64]))
def test_a_network_passes_the_check(network, check, seed, rows, dtype):
    study = NetworkStudy(network.build, device=network.device)
    study.seeds, study.rows = (seed, seed ^ 1), (rows, rows)

    with default_dtype(dtype):
        result = run(check, study, Recorder())

    assert result.status is Status.HOLDS, str(result)


@given(seed=seeds, rows=row_counts)
def test_no_gradient_is_recorded_under_no_grad_and_inference_mode(network, seed, rows):
    study = NetworkStudy(network.build, device=network.device)
    net = study.build(seed)
    x = study.drawn(net, rows, seed)

    for context in (torch.no_grad, torch.inference_mode):
        with context():
            assert not net(x).requires_grad
