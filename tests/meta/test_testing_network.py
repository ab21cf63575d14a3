"""The checks of a network kill every planted fault, and support any inputs and outputs of ``forward``."""

import warnings
from collections import OrderedDict
from dataclasses import dataclass
from enum import Enum

import pytest
import torch
from lightning import LightningModule
from torch import nn

from simplenet import ARCHITECTURES, SimpleNet
from simplenet.testing.network import CHECKS, NetworkStudy, check_network
from simplenet.testing.report import Status
from tests.faults.networks import FAULTS, FaultyNetwork

KILLED_BY = {
    "weights from a generator of their own": "the same seed builds the same network",
    "noise in the output": "prediction repeats itself and writes to nothing",
    "input written to": "prediction repeats itself and writes to nothing",
    "calls counted while scoring": "prediction repeats itself and writes to nothing",
    "mean of the batch taken off": "each row is independent of the others",
    "weight that is no parameter": "its state dict is complete",
    "parameter left out": "every parameter gets a gradient that lowers the loss",
    "activation kept where the next one is": "gradients of two losses add up",
    "weight read as contiguous": "memory layout of inputs and parameters changes nothing",
    "input read as contiguous": "memory layout of inputs and parameters changes nothing",
    "gradient negated": "every parameter gets a gradient that lowers the loss",
    "dropout from a generator of its own": "training repeats itself",
    "weights shared with copies": "a deep copy is equal and independent",
    "parameters of a copy not frozen": "a deep copy is equal and independent",
    "copy in training mode": "a deep copy is equal and independent",
    "weights of a copy drawn anew": "a deep copy is equal and independent",
    "copy that calls the original": "a deep copy is equal and independent",
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_named(fault):
    report = check_network(lambda: FaultyNetwork(fault))

    assert KILLED_BY[fault] in report.failures, str(report)


@pytest.mark.parametrize("fault", ["weights from a generator of their own", "dropout from a generator of its own"])
@pytest.mark.parametrize(
    "check", ["gradients of two losses add up", "memory layout of inputs and parameters changes nothing"]
)
def test_a_network_that_does_not_repeat_itself_has_no_other_cause_named(fault, check):
    result = check_network(lambda: FaultyNetwork(fault), only=["it takes a batch", check])[check]

    assert result.status is Status.NOT_APPLICABLE
    assert result.detail.startswith("it does not repeat itself: ")


@pytest.mark.parametrize("factory", [FaultyNetwork, *(lambda a=a: SimpleNet(a) for a in ARCHITECTURES)])
def test_a_correct_network_passes(factory):
    report = check_network(factory)

    assert report.passed, str(report)


class WithExtraState(SimpleNet):
    """Keeps values of its own in its state dict."""

    calls, scale = 0, torch.ones(1)

    def forward(self, x):
        self.calls += 1
        return super().forward(x) * self.scale

    def get_extra_state(self):
        return {"calls": self.calls, "scale": self.scale}

    def set_extra_state(self, state):
        self.calls, self.scale = state["calls"], state["scale"]


def test_a_network_may_have_an_extra_state():
    report = check_network(WithExtraState)

    assert report.passed, str(report)


VECTORS, SEQUENCES = torch.zeros(4, 3), torch.zeros(4, 5, 4)
TORCH_MODULES = {
    "Bilinear": (lambda: nn.Bilinear(3, 3, 2), (VECTORS, VECTORS)),
    "Embedding": (lambda: nn.Embedding(5, 3), torch.arange(4)),
    "BatchNorm1d": (lambda: nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2)), VECTORS),
    "Conv2d": (lambda: nn.Conv2d(3, 2, 3), torch.zeros(4, 3, 5, 5)),
    "LSTM": (lambda: nn.LSTM(4, 3, batch_first=True, bidirectional=True), SEQUENCES),
    "TransformerEncoderLayer": (lambda: nn.TransformerEncoderLayer(4, 2, 8, dropout=0.0, batch_first=True), SEQUENCES),
}


@pytest.mark.parametrize("module", TORCH_MODULES)
def test_torchs_own_modules_pass_but_for_known_defects(module):
    """The first dimension of an LSTM's last state is that of its directions; kernels may add in another order."""
    factory, inputs = TORCH_MODULES[module]

    report = check_network(factory, inputs=inputs, independent_rows="eval", roundings=16)

    assert "warns" not in report.facts
    assert all(result.status in {Status.HOLDS, Status.NOT_APPLICABLE} for result in report.results), str(report)


class TwoInputs(nn.Module):
    """Takes two tensors, by position or by name, and returns their scores in the form that ``wrap`` gives them."""

    def __init__(self, wrap):
        super().__init__()
        self.a, self.b, self.wrap = nn.Linear(2, 3), nn.Embedding(5, 3), wrap

    def forward(self, x, index):
        return self.wrap(self.a(x), self.b(index))


@dataclass
class Output:
    scores: torch.Tensor
    hidden: tuple


class Kind(Enum):
    """A member refers to its class, which refers to its members."""

    SCORES = 1


class Cyclic:
    """Refers to itself."""

    def __init__(self, scores):
        self.scores, self.kind, self.itself = scores, Kind.SCORES, [self]


class Returned(dict):
    """A subclass of a dictionary, as many libraries return."""


@pytest.mark.parametrize("named", [False, True])
@pytest.mark.parametrize(
    "wrap",
    [
        lambda a, b: a + b,
        lambda a, b: (a + b, b),
        lambda a, b: {"scores": a + b, "hidden": [a, b]},
        lambda a, b: Returned(scores=a + b),
        lambda a, b: Output(a + b, (a, b)),
        lambda a, b: Cyclic(a + b),
    ],
    ids=["tensor", "tuple", "dictionary", "subclass", "object", "cycle"],
)
def test_forward_may_take_and_return_anything(named, wrap):
    example = (torch.zeros(4, 2), torch.arange(4))
    inputs = dict(zip(("x", "index"), example, strict=True)) if named else example

    report = check_network(lambda: TwoInputs(wrap), inputs=inputs)

    assert report.passed, str(report)


class SparseGradients(nn.Module):
    """Its embedding has sparse gradients, which torch's Adam does not take."""

    example_input_array = torch.arange(15).reshape(3, 5)

    def __init__(self):
        super().__init__()
        self.embedding, self.head = nn.Embedding(15, 4, sparse=True), nn.Linear(4, 2)

    def forward(self, ids):
        return self.head(self.embedding(ids).mean(1))


class Complex(nn.Module):
    """Has complex weights and a complex output."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(2, 3, dtype=torch.complex64))

    def forward(self, x):
        return (x.to(self.weight.dtype) @ self.weight).conj()


@pytest.mark.parametrize(
    "factory",
    [
        lambda: nn.Sequential(nn.LazyLinear(4), nn.LazyBatchNorm1d(), nn.Tanh(), nn.LazyLinear(1)),
        SparseGradients,
        Complex,
    ],
    ids=["lazy", "sparse gradients", "complex"],
)
def test_any_weights_and_gradients_of_torch_are_checked(factory):
    report = check_network(factory, independent_rows="eval", roundings=8)

    assert report.passed, str(report)
    assert "imaginary part" not in report.facts.get("warns", "")
    inapplicable = [result.check for result in report.results if result.status is Status.NOT_APPLICABLE]
    assert inapplicable == ["it resumes under lightning"]


@pytest.mark.filterwarnings("ignore:Lazy modules are a new feature")  # torch 2.0
@pytest.mark.parametrize("seed", [1, 2])
def test_the_weights_of_lazy_modules_follow_from_the_seed(seed):
    weights = [NetworkStudy(lambda: nn.LazyLinear(1)).build(seed).weight for seed in (seed, seed, 3)]

    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


class WithTrainingStep(LightningModule):
    """Has its own ``training_step``; with ``repeats=False`` it adds noise from its own generator, which is a fault."""

    def __init__(self, *, repeats=True):
        super().__init__()
        self.layer, self.repeats = nn.Linear(2, 1), repeats

    def forward(self, x):
        return self.layer(x)

    def training_step(self, batch, _index):
        x, y = batch
        noise = 0.0 if self.repeats else torch.rand((), generator=torch.Generator().manual_seed(torch.seed() % 2**32))
        return {"loss": (self(x) - y + noise).square().mean()}

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=0.01)


def test_the_training_step_of_a_lightning_module_is_called():
    """Without the call, the noise that it adds would not be detected."""
    sound, noisy = (
        check_network(lambda repeats=repeats: WithTrainingStep(repeats=repeats)) for repeats in (True, False)
    )

    assert sound.passed, str(sound)
    assert sound["it resumes under lightning"].status is Status.HOLDS
    assert "training repeats itself" in noisy.failures


class Manual(WithTrainingStep):
    """Steps its own optimizer, which it has only under a Trainer, and returns no loss."""

    def __init__(self):
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch, index):
        optimizer = self.optimizers()
        optimizer.zero_grad()
        self.manual_backward(super().training_step(batch, index)["loss"])
        optimizer.step()


def test_a_network_that_optimizes_manually_is_trained_by_its_output_and_resumed_by_its_training_step():
    report = check_network(Manual)

    assert report.passed, str(report)
    assert report["training repeats itself"].detail == ""
    assert all(result.status is Status.HOLDS for result in report.results)


class Forgetful(WithTrainingStep):
    """Does not load its weights from a checkpoint."""

    def on_load_checkpoint(self, checkpoint):
        checkpoint["state_dict"] = {name: torch.zeros_like(t) for name, t in checkpoint["state_dict"].items()}


def test_a_network_that_does_not_resume_is_named():
    assert list(check_network(Forgetful).failures) == ["it resumes under lightning"]


def test_rows_that_depend_on_each_other_can_be_declared():
    """As with batch normalization in training mode."""

    def factory():
        return nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.Linear(3, 1))

    assert "each row is independent of the others" in check_network(factory).failures
    report = check_network(factory, independent_rows="eval", roundings=8)
    assert report.passed, str(report)
    assert report["memory layout of inputs and parameters changes nothing"].status is Status.KNOWN
    declared = check_network(
        factory, independent_rows=False, only=["it takes a batch", "each row is independent of the others"]
    )
    assert declared["each row is independent of the others"].status is Status.NOT_APPLICABLE


class Other(nn.Module):
    """Returns another value where ``there()`` is true."""

    def __init__(self, there):
        super().__init__()
        self.there = there

    def forward(self, x):
        return x * (1 + 2.0**-22) if self.there() else x


@pytest.mark.parametrize(
    ("there", "context"),
    [(lambda: not torch.is_grad_enabled(), "no_grad"), (torch.is_inference_mode_enabled, "inference_mode")],
)
def test_a_difference_under_no_grad_or_inference_mode_is_named_and_may_be_declared(there, context):
    check = "recording gradients does not change the output"

    def factory():
        return nn.Sequential(OrderedDict(first=nn.Linear(2, 3), second=Other(there)))

    report = check_network(factory)

    assert report.failures[check].endswith(f" [{context}, 2 rows]; the first module that does is second, a Other")
    assert check_network(factory, roundings=6, only=[check]).passed
    assert not check_network(factory, roundings=2, only=[check]).passed


def test_a_network_that_takes_no_batch_fails_one_check():
    class Broken(nn.Module):
        def forward(self, x):  # noqa: ARG002 - forward takes it
            raise KeyError("input_ids")

    report = check_network(Broken)

    assert list(report.failures) == ["it takes a batch"]
    assert report.failures["it takes a batch"].startswith("raises KeyError: 'input_ids' in forward")
    assert sum(result.status is Status.NOT_APPLICABLE for result in report.results) == len(CHECKS) - 1


def test_a_network_that_does_not_take_the_default_batch_is_said_to_need_an_example():
    default, given = (check_network(lambda: nn.Linear(3, 1), inputs=x) for x in (None, torch.zeros(4, 5)))

    where = "in forward of the default batch, rows of two numbers; give inputs or example_input_array"
    assert default.failures["it takes a batch"].endswith(where)
    assert given.failures["it takes a batch"].endswith("in forward")


def test_a_network_instead_of_a_function_that_builds_one_is_refused():
    """It can be called too, but only with a batch."""
    with pytest.raises(ValueError, match=r"^Linear is a network, but should be a class or function that builds one$"):
        check_network(nn.Linear(2, 1))


@pytest.mark.parametrize(("unused", "named"), [(2, "0.weight, 0.bias"), (4, "0.weight, 0.bias, 1.weight and 1 more")])
def test_parameters_that_no_gradient_reaches_are_named(unused, named):
    class Unused(nn.ModuleList):
        def forward(self, x):
            return self[-1](x)

    check = "every parameter gets a gradient that lowers the loss"
    report = check_network(lambda: Unused(nn.Linear(2, 1) for _ in range(unused // 2 + 1)), only=[check])

    assert report.failures == {check: f"no gradient reaches {named}"}


class Experts(nn.Module):
    """Each row passes through one of two layers; to the second go few rows."""

    def __init__(self):
        super().__init__()
        self.experts = nn.ModuleList(nn.Linear(2, 1) for _ in range(2))

    def forward(self, x):
        first, second = (expert(x) for expert in self.experts)
        return torch.where(x[:, :1] < 1.5, first, second) if (x[:, 0] >= 1.5).any() else first


def test_a_gradient_may_reach_a_parameter_from_other_rows():
    report = check_network(Experts)

    assert report.passed, str(report)


class Force(nn.Linear):
    """Computes a gradient in ``forward``, which is impossible under ``inference_mode``."""

    def forward(self, x):
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            return torch.autograd.grad(super().forward(x).square().sum(), x, create_graph=True)[0]


def test_an_exception_under_inference_mode_is_said_to_be_raised_there():
    report = check_network(lambda: Force(2, 1))

    (failure,) = report.failures.values()
    assert failure.startswith("raises RuntimeError: ")
    assert failure.endswith(" in forward under inference_mode")


def test_warnings_are_recorded_and_are_no_failure():
    class Warns(nn.Linear):
        def forward(self, x):
            warnings.warn("mine", UserWarning, stacklevel=1)
            return super().forward(x)

    report = check_network(lambda: Warns(2, 1))

    assert report.passed, str(report)
    assert report.facts["warns"] == "UserWarning: mine"


def test_another_sign_of_zero_is_a_difference():
    class Signed(nn.Linear):
        def forward(self, x):
            zero = (super().forward(x) * 0).abs()
            return zero if torch.is_grad_enabled() else -zero

    check = "recording gradients does not change the output"

    assert check in check_network(lambda: Signed(2, 1), only=["it takes a batch", check]).failures
