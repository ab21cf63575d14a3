"""What torch.compile keeps on disk is used only where it computes the same."""

import json
import os
import subprocess
import sys

import pytest
import torch

from simplenet.environment import TORCH
from simplenet.testing.assertions import assert_within
from simplenet.testing.bounds import EXP_ROUNDINGS, gamma
from tests.children.background import Background
from tests.children.compiler import TOLD, has_avx2

# Whose instructions the processes compile for: one after the other, as machines do that share a directory.
CAPABILITIES = ("avx2", "default")

# A number that one operator takes as a tensor, and another as it is, as in Adam's second moment.
COMPILED = """
import json, torch
print(json.dumps(torch.compile(torch.exp)(torch.linspace(-1, 1, 64)).tolist()))

def second_moment(beta2):
    step = lambda v, g: (v * beta2).addcmul(g, g, value=1 - beta2)
    return torch.compile(step)(torch.ones(2), torch.full((2,), 2.0)).tolist()

print(json.dumps([second_moment(beta2) for beta2 in (0.5, 0.75, 0.875)]))
"""

IN_TURN = """
import os, subprocess, sys
program, *capabilities = sys.argv[1:]
for capability in capabilities:
    with open(capability, "wb") as answer, open(capability + ".errors", "wb") as errors:
        environment = {**os.environ, "ATEN_CPU_CAPABILITY": capability}
        subprocess.run([sys.executable, "-W", "ignore", "-c", program], env=environment, stdout=answer, stderr=errors)
"""


def compile_in_turn(directory):
    """Compile the same function in the same directory; the second process finds what the first has kept."""
    if TORCH < (2, 5) or not has_avx2():
        return []
    settings = {
        "TORCHINDUCTOR_CACHE_DIR": str(directory),
        "TORCHINDUCTOR_FX_GRAPH_CACHE": "1",  # as torch does by itself
    }
    command = [sys.executable, "-c", IN_TURN, COMPILED, *CAPABILITIES]
    return [subprocess.Popen(command, cwd=directory, env=os.environ | TOLD | settings, stderr=subprocess.PIPE)]


shared = Background(compile_in_turn)


pytestmark = [
    pytest.mark.skipif(TORCH < (2, 5), reason="torch keeps compiled graphs from 2.5 on, unless it is asked to"),
    pytest.mark.skipif(not has_avx2(), reason="the instructions of AVX2 are not here"),
]


def computed(directory, capability):
    """Return what a process printed, a line a list."""
    answer, errors = ((directory / name).read_text("utf-8") for name in (capability, f"{capability}.errors"))
    assert answer, f"compiling under {capability} failed: {errors}"
    return [json.loads(line) for line in answer.splitlines()]


def test_code_compiled_for_other_instructions_is_not_used(finished):
    directory = finished(shared)

    for capability in CAPABILITIES:
        exponentials, *_ = computed(directory, capability)
        exact = torch.linspace(-1, 1, 64).double().exp()
        rtol = gamma(EXP_ROUNDINGS, torch.float32)
        assert_within(torch.tensor(exponentials), exact, rtol=rtol, claim=f"compiled exp under {capability}")


def test_code_compiled_for_another_number_is_not_used(finished):
    *_, second_moments = computed(finished(shared), CAPABILITIES[0])

    assert second_moments == [[2.5, 2.5], [1.75, 1.75], [1.375, 1.375]]
