"""Take compiled steps of an ensemble: ``python -m tests.children.compiled_ensemble``.

The states are saved as ``compiled.pt`` in the working directory.
"""

import torch

from simplenet import ensemble, train_ensemble
from simplenet.ensemble import Step, fresh, initial_weights, schedule


def main() -> None:
    """Compile, and take steps from the states after 250 eager steps."""
    cpu = torch.device("cpu")
    compiled = ensemble._compiled("overview", 4, cpu, torch.float32)  # noqa: SLF001
    eager = ensemble._loop(Step("overview", 4, cpu))  # noqa: SLF001
    rows = torch.nn.functional.pad(schedule(3, 260, 0.01), (0, 0, 0, 740))
    weights = initial_weights(range(1024))
    start, t, end, far = (torch.tensor(t) for t in (0, 250, 251, 253))
    with torch.no_grad():
        before = eager(start, t, fresh(weights), rows)
        states = {
            "before": before,
            "after": compiled(t, end, before, rows),
            "none": compiled(t, t.clone(), before, rows),
        }
        states |= {"three": compiled(t, far, before, rows), "single": states["after"]}
        for i in (251, 252):
            states["single"] = compiled(torch.tensor(i), torch.tensor(i + 1), states["single"], rows)
    many, few = (train_ensemble(seeds, steps=40, batch_size=3) for seeds in (range(1030), [1028]))
    trained = {"many": many.weights[1028], "few": few.weights[0], "fallback": many.fallback}
    torch.save({name: tuple(state) for name, state in states.items()} | trained, "compiled.pt")


if __name__ == "__main__":
    main()
