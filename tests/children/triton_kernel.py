"""Take steps with the ensemble's Triton kernel: ``python -m tests.children.triton_kernel FILE`` saves the states.

On the CPU, Triton interprets the kernel if ``TRITON_INTERPRET`` is 1 before Triton is imported.
"""

import sys

import torch

from simplenet.ensemble import State, fresh, initial_weights, schedule
from simplenet.model import ARCHITECTURES, Architecture

# Widths of every kind: a single unit, widths that are padded to a power of two, and the widest.
_OTHERS: list[tuple[Architecture, int]] = [("overview", 1), ("derivation", 3), ("overview", 5), ("overview", 8)]
CASES = [*((name, 4) for name in ARCHITECTURES), *_OTHERS]

NETWORKS = 34  # two more than a program of the kernel has
LR, BATCH_SIZE, STEPS = 0.3, 3, 80  # after which some networks have solved XOR, and others have not


def states(architecture: Architecture, hidden: int, device: torch.device) -> dict[str, State]:
    """Return the state after ``STEPS`` steps, and after zero, one and three more, the last at once and one by one."""
    from simplenet import triton_ensemble

    block = torch.nn.functional.pad(schedule(BATCH_SIZE, STEPS + 3, LR), (0, 0, 0, 1000 - STEPS - 3)).to(device)

    def run(begin: int, end: int, state: State) -> State:
        t, limit = torch.tensor(begin, device=device), torch.tensor(end, device=device)
        return triton_ensemble.run(architecture, hidden, t, limit, state, block)

    weights = initial_weights(range(NETWORKS), architecture, hidden).to(device)
    before = run(0, STEPS, fresh(weights))
    found = {"before": before, "none": run(STEPS, STEPS, before), "three": run(STEPS, STEPS + 3, before)}
    found["after"] = found["singly"] = run(STEPS, STEPS + 1, before)
    for t in (STEPS + 1, STEPS + 2):
        found["singly"] = run(t, t + 1, found["singly"])
    return {name: State(*(part.cpu() for part in state)) for name, state in found.items()}


def main(file: str) -> None:
    """Save the states of each case as tuples."""
    cpu = torch.device("cpu")
    torch.save([{name: tuple(state) for name, state in states(*case, cpu).items()} for case in CASES], file)


if __name__ == "__main__":
    main(*sys.argv[1:])
