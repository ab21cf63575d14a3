"""Code that torch.compile has cached on disk is used only where it computes the same."""

import json

import pytest
import torch

from simplenet.environment import TORCH
from simplenet.testing.assertions import assert_within
from simplenet.testing.bounds import EXP_ROUNDINGS, gamma
from tests.children.background import Background
from tests.children.forked import FX_GRAPH_CACHE, has_avx2, launch

CAPABILITIES = ("avx2", "default")


def compile_in_turn(directory):
    """Compile the same function in the same directory; the second process finds what the first has cached."""
    if TORCH < (2, 5) or not has_avx2():
        return []
    settings = {"TORCHINDUCTOR_CACHE_DIR": str(directory), FX_GRAPH_CACHE: "1"}
    return [launch("-m", "tests.children.compiled_in_turn", *CAPABILITIES, directory=directory, environment=settings)]


shared = Background(compile_in_turn)


pytestmark = [
    pytest.mark.skipif(TORCH < (2, 5), reason="torch caches compiled graphs by default from 2.5 on"),
    pytest.mark.skipif(not has_avx2(), reason="Linux reports no processor with AVX2"),
]


def computed(directory, capability):
    """Return what was computed under a capability, by name."""
    answer = json.loads((directory / capability).read_text("utf-8"))
    assert "error" not in answer, f"compiling under {capability} failed: {answer['error']}"
    return answer


def test_code_compiled_for_other_instructions_is_not_used(finished):
    directory = finished(shared)

    for capability in CAPABILITIES:
        exponentials = torch.tensor(computed(directory, capability)["exponentials"])
        exact = torch.linspace(-1, 1, 64).double().exp()
        rtol = gamma(EXP_ROUNDINGS, torch.float32)
        assert_within(exponentials, exact, rtol=rtol, claim=f"compiled exp under {capability}")


def test_code_compiled_for_another_number_is_not_used(finished):
    answer = computed(finished(shared), CAPABILITIES[0])

    assert answer["second moments"] == [[2.5, 2.5], [1.75, 1.75], [1.375, 1.375]]
