"""A training loop without Trainer and loader, from the start or from any state, and the balls of a step's results.

It uses the full batch of four rows, in float32, on the CPU.
"""

import zlib

import torch
from jaxtyping import Float32
from torch import Tensor
from torch.nn.utils import parameters_to_vector, vector_to_parameters
from torch.optim import Adam

from simplenet import Architecture, SimpleNet, mse_loss, set_seed, xor
from simplenet.testing.balls import Balls
from simplenet.testing.implementations import apply_step
from simplenet.testing.one_step import Expected, TrainingState, training_step
from tests.environments.golden import ADAMS, MARKS, STEPS, TRAINING, Mark, Run, Trajectory, bits
from tests.states import write


class Training:
    """The loop, one step at a time.

    Args:
        trajectory: The implementation, the architecture and the seed.
    """

    def __init__(self, trajectory: Trajectory) -> None:
        implementation = ADAMS[trajectory.implementation]
        set_seed(trajectory.seed)
        self.net = SimpleNet(trajectory.architecture, lr=TRAINING["lr"])
        self.parameters = list(self.net.parameters())
        self.optimizer = implementation.build(Adam, self.parameters, lr=TRAINING["lr"], **implementation.flags)
        self.inputs, self.targets = xor()
        self.t = 0

    def step(self) -> Float32[Tensor, ""]:
        """Take a step; return the loss before it."""
        self.optimizer.zero_grad()
        loss = mse_loss(self.net(self.inputs), self.targets)
        loss.backward()
        self.optimizer.step()
        self.t += 1
        return loss.detach()

    def weights(self) -> Float32[Tensor, " parameters"]:
        """Copy all parameters into one vector."""
        return parameters_to_vector(self.parameters).detach()

    def state(self) -> TrainingState:
        """Copy the weights and the optimizer's state, each as one vector."""
        m, v = (
            torch.cat([self.optimizer.state[p].get(name, torch.zeros_like(p)).flatten() for p in self.parameters])
            for name in ("exp_avg", "exp_avg_sq")
        )
        return TrainingState(self.weights(), m.detach(), v.detach(), None, self.t)

    def go_to(self, state: TrainingState) -> None:
        """Set the state of network and optimizer."""
        apply_step(self.optimizer, self.parameters, [torch.zeros_like(p) for p in self.parameters])  # allocates it
        sizes = [p.numel() for p in self.parameters]
        parts = zip(*(vector.split(sizes) for vector in (state.p, state.m, state.v)), strict=True)
        for p, own in zip(self.parameters, parts, strict=True):
            m, v = own[1:]
            write(self.optimizer, p, TrainingState(own[0].view_as(p), m.view_as(p), v.view_as(p), None, state.t))
        self.t = state.t

    def mark(self) -> Mark:
        """Take a step, and return the record of it."""
        before = self.state()
        return Mark(before.p, before.m, before.v, self.step(), self.weights())


def train(trajectory: Trajectory, steps: int = STEPS) -> Run:
    """Train a whole run."""
    training = Training(trajectory)
    marks, weights = {}, [training.weights()]
    for t in range(1, steps + 1):
        if t in MARKS:
            marks[t] = training.mark()
        else:
            training.step()
        weights.append(training.weights())
    return Run(marks, [zlib.crc32(bits(row)) for row in torch.stack(weights)])


def step_from(trajectory: Trajectory, state: TrainingState) -> tuple[Tensor, TrainingState]:
    """Take one step from a given state; return the loss before it and the state after it."""
    training = Training(trajectory)
    training.go_to(state)
    return training.step(), training.state()


def possible_results(architecture: Architecture, before: TrainingState) -> tuple[Balls, Expected]:
    """Compute the balls of the loss in a state, and of the state after a step."""
    net = SimpleNet(architecture, lr=TRAINING["lr"])
    vector_to_parameters(before.p.clone(), net.parameters())
    return training_step(net, before, *xor())
