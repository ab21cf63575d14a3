"""``simplenet check`` in a user's directory, and ``parametrize_with_checks`` in a user's suite."""

import io
import json
import sys
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from simplenet.cli import main
from simplenet.testing import ArrayOptimizer, check_adam, parametrize_with_checks
from simplenet.testing.checks import adam_checks
from simplenet.testing.report import Status
from tests.children.forked import launch

MINE = """
import torch
class MyAdam(torch.optim.AdamW):
    pass
class Loud(torch.optim.Adam):
    def step(self, closure=None):
        import warnings
        print("stepping")
        warnings.warn("deprecated", DeprecationWarning)
        return super().step(closure)
class Quits(torch.optim.Adam):
    def step(self, closure=None):
        raise SystemExit(3)
class Endless(torch.optim.Adam):
    def step(self, closure=None):
        while True:
            try:
                while True:
                    pass
            except BaseException:
                raise
def fails(parameters, lr):
    raise RuntimeError("not here")
def inputs():
    print("drawing")
    return (torch.zeros(3, 2),)
batch = torch.zeros(5, 2)
def unread():
    raise OSError("no disk")
class Net(torch.nn.Linear):
    def __init__(self):
        super().__init__(2, 1)
value = 7
print("importing")
"""
ONLY = ("--dtype", "float32", "--only", "it takes steps", "--only", "it is a published variant of Adam")


@pytest.fixture
def here(tmp_path, monkeypatch):
    """Change to a directory that contains ``mine.py``."""
    (tmp_path / "mine.py").write_text(MINE, "utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    sys.modules.pop("mine", None)
    yield tmp_path
    sys.modules.pop("mine", None)


def run(*arguments):
    return CliRunner().invoke(main, ["check", *arguments])


@pytest.mark.usefixtures("here")
def test_checking_a_users_adam_prints_a_table_and_exits_with_a_status():
    result = run("adam", "mine:MyAdam", *ONLY, "--json", "report.json")

    assert result.exit_code == 0, result.output
    assert "epsilon outside" in result.output
    assert "it is a published variant of Adam  holds" in result.output
    report = json.loads(Path("report.json").read_text("utf-8"))
    assert report["passed"]
    assert report["measured"]["variant"]["decay"] == "decoupled, times lr"


@pytest.mark.usefixtures("here")
def test_an_adam_of_another_variant_than_required_has_status_1():
    result = run("adam", "mine:MyAdam", *ONLY, "--variant", "adam")

    assert result.exit_code == 1
    assert "decay is 'decoupled, times lr', but should be 'L2'" in result.output


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    "arguments",
    [
        ("adam", "mine:Nothing"),
        ("adam", "nowhere:MyAdam"),
        ("adam", "mine:value"),
        ("adam", "mine"),
        ("adam", ":MyAdam"),
        ("adam", "mine:MyAdam", "--variant", "Adamax"),
        ("adam", "mine:MyAdam", "--only", "it flies"),
        ("adam", "mine:MyAdam", "--expect-failure", "it flies=no wings"),
        ("adam", "mine:MyAdam", "--expect-failure", "it takes steps"),
        ("adam", "mine:MyAdam", "--device", "abacus"),
        ("adam", "mine:MyAdam", "--dtype", "int8"),
        ("network", "mine:Nothing"),
        ("network", "mine:Net", "--inputs", "mine:fails"),
        ("network", "mine:Net", "--batch", "mine:Net.forward"),
    ],
)
def test_bad_usage_has_status_2_and_names_what_is_wrong(arguments):
    result = run(*arguments)

    assert result.exit_code == 2, result.output
    assert "Traceback" not in result.output
    assert "''" not in result.output
    assert arguments[-1].partition(":")[0].partition("=")[0] in result.output


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    ("name", "detail"),
    [
        ("fails", "raises RuntimeError: not here when it is constructed"),
        ("Quits", "raises SystemExit: 3 at the first step"),
        ("Endless", "took more than the 3 s that a check may take, and was stopped"),
    ],
)
def test_an_optimizer_that_takes_no_steps_fails_one_check_and_the_others_are_not_applicable(name, detail):
    result = run("adam", f"mine:{name}", *ONLY, "--time-limit", "3")

    assert result.exit_code == 1, result.output
    assert detail in result.output
    assert "1 fails, 1 not applicable" in result.output


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    ("kind", "only", "first"),
    [("adam", "gradients are not written to", "it takes steps"),
     ("network", "training repeats itself", "it takes a batch")],
)  # fmt: skip
def test_what_cannot_be_constructed_fails_whichever_check_is_chosen(kind, only, first):
    """The others are not applicable, and would pass."""
    chosen = run(kind, "mine:fails", "--only", only)
    expected = run(kind, "mine:fails", "--only", only, "--expect-failure", f"{first}=not yet")

    assert chosen.exit_code == 1
    assert f"{first}  " in chosen.stdout
    assert chosen.stdout.endswith("1 fails, 1 not applicable\n")
    assert expected.exit_code == 0
    assert expected.stdout.endswith("1 not applicable, 1 expected failure\n")


@pytest.mark.usefixtures("here")
def test_output_and_warnings_are_reported_and_are_no_failure():
    result = run("adam", "mine:Loud", *ONLY)

    assert result.exit_code == 0, result.output
    assert "DeprecationWarning: deprecated" in result.output
    assert result.output.count("stepping") == 1
    assert result.stdout.startswith("Loud\n")
    assert "importing" in result.stderr


@pytest.mark.usefixtures("here")
def test_an_expected_failure_is_shown_with_its_whole_reason():
    result = run("adam", "torch.optim:SGD", *ONLY, "--expect-failure", f"{ONLY[-1]}=m = v = 0")

    assert result.exit_code == 0, result.output
    assert "  expected failure  m = v = 0 (" in result.output
    assert result.output.endswith("1 holds, 1 expected failure\n")


@pytest.mark.parametrize("terminal", [True, False])
def test_a_progress_bar_counts_the_checks_in_a_terminal_and_is_cleared_at_the_end(terminal, monkeypatch, capsys):
    stderr = io.StringIO()
    stderr.isatty = lambda: terminal
    monkeypatch.setattr("sys.stderr", stderr)

    with pytest.raises(SystemExit, match="0"):
        main(["check", "adam", "torch.optim:Adam", *ONLY])

    assert stderr.getvalue().startswith("\r  0%|") is terminal
    assert ("0/2 [00:00<?, ?check/s]" in stderr.getvalue()) is terminal
    assert stderr.getvalue().rpartition("\r")[2] == ""
    assert "2 holds" in capsys.readouterr().out


@pytest.mark.usefixtures("here")
def test_checking_a_users_network_prints_a_table_and_exits_with_a_status():
    result = run("network", "mine:Net", "--inputs", "mine:inputs")

    assert result.exit_code == 0, result.output
    assert "training repeats itself" in result.output


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(("inputs", "printed"), [("inputs", "drawing\n"), ("batch", "")])
def test_an_example_batch_is_an_object_or_what_a_function_returns(inputs, printed):
    """What the function prints goes to stderr, because stdout is for the report."""
    result = run("network", "mine:Net", "--inputs", f"mine:{inputs}", "--only", "it takes a batch")

    assert result.exit_code == 0, result.output
    assert result.stdout.startswith("Net\n")
    assert result.stderr.endswith(printed)


@pytest.mark.usefixtures("here")
def test_an_example_batch_that_cannot_be_made_is_refused_with_the_error():
    result = run("network", "mine:Net", "--inputs", "mine:unread")

    assert result.exit_code == 2
    message = "Error: --inputs is 'mine:unread', which should return a batch, but raises OSError: no disk"
    assert result.stderr.splitlines()[-1] == message


def test_a_report_that_cannot_be_written_is_refused_before_the_checks(monkeypatch):
    monkeypatch.setattr("simplenet.testing.checks.check_adam", lambda *_, **__: pytest.fail("the work was done"))

    result = run("adam", "torch.optim:Adam", "--json", "none/report.json")

    assert result.exit_code == 2
    message = "Error: --json is 'none/report.json', which cannot be written: No such file or directory"
    assert result.output.splitlines()[-1] == message


def test_ctrl_c_during_a_check_exits_with_status_130(monkeypatch):
    def interrupted(*_arguments, **_options):
        raise KeyboardInterrupt

    monkeypatch.setattr("simplenet.testing.checks.check_adam", interrupted)

    assert run("adam", "torch.optim:Adam").exit_code == 130


SUITE = """
import torch
from mine import MyAdam, Net, fails
from simplenet.testing import parametrize_network_with_checks, parametrize_with_checks

only = {"dtypes": [torch.float32]}

@parametrize_with_checks([MyAdam, fails], **only)
def test_mine(adam, check):
    check(adam)

@parametrize_with_checks([fails], **only, expected_failures={"it takes steps": "not yet"})
def test_expected(adam, check):
    check(adam)

@parametrize_with_checks([MyAdam], **only, expected_failures={"it takes steps": "does not fail"})
def test_strictly(adam, check):
    check(adam)

@parametrize_network_with_checks([Net, fails])
def test_network(network, check):
    check(network)
"""


def test_each_check_is_a_test_in_a_users_suite(here):
    """In another process, without this suite's configuration."""
    (here / "test_mine.py").write_text(SUITE, "utf-8")
    options = ["-v", "-p", "no:cacheprovider", "-k", "takes or variant or past"]

    launch("-m", "pytest", *options, "test_mine.py", directory=here, output="stdout").communicate(timeout=300)

    stdout = (here / "stdout").read_text("utf-8")
    lines = [line for line in stdout.splitlines() if line.startswith("test_mine.py::")]
    lines = [line.partition("test_mine.py::")[2] for line in lines]
    outcomes = dict(line.split("] ", 1) for line in lines if "] " in line)
    expected = {
        "test_mine[MyAdam-it takes steps": "PASSED",
        "test_mine[MyAdam-it is a published variant of Adam": "PASSED",
        "test_mine[MyAdam-the step count continues past two to the 24": "XFAIL",
        "test_mine[fails-it takes steps": "FAILED",
        "test_mine[fails-it is a published variant of Adam": "SKIPPED",
        "test_expected[fails-it takes steps": "XFAIL",
        "test_strictly[MyAdam-it takes steps": "FAILED",
        "test_network[Net-it takes a batch": "PASSED",
        "test_network[fails-it takes a batch": "FAILED",
    }
    for name, outcome in expected.items():
        assert outcomes[name].startswith(outcome), stdout
    assert "Traceback" not in stdout.partition("FAILURES")[2].partition("raises")[0]


def test_the_checks_of_a_users_suite_have_its_options():
    options = {"dtypes": [torch.float64], "device": torch.device("cpu", 0), "variant": "adam", "fixed": {"eps": 1e-3}}
    expected = {"it is a published variant of Adam": "another epsilon"}

    mark = parametrize_with_checks(
        [torch.optim.Adam, torch.optim.SGD], **options, expected_failures=expected, time_limit=7
    )

    names, parameters = mark.args
    assert names == ("adam", "check")
    checks = [check.name for check in adam_checks(options["dtypes"])]
    assert [parameter.id for parameter in parameters] == [f"{of}-{name}" for of in ("Adam", "SGD") for name in checks]
    for make, check in (parameter.values for parameter in parameters):
        _, study, _, time_limit = check.judge.args
        assert (study.subject.make, study.subject.fixed, time_limit) == (make, options["fixed"], 7)
        assert (study.dtypes, study.device) == ((torch.float64,), options["device"])
        assert study.demanded.decay == "L2"
    marked = {parameter.id: parameter.marks for parameter in parameters if parameter.marks}
    assert marked.keys() == {f"{of}-{name}" for of in ("Adam", "SGD") for name in expected}
    assert all(mark.kwargs == {"strict": True, "reason": "another epsilon"} for (mark,) in marked.values())


def test_expected_failures_have_to_be_checks():
    with pytest.raises(ValueError, match="check is 'it flies', but should be one of: it takes steps;"):
        parametrize_with_checks([torch.optim.Adam], expected_failures={"it flies": "no wings"})
    float32 = "every step is within its bound, float32"
    with pytest.raises(ValueError, match=f"check is '{float32}', but should be one of: "):
        parametrize_with_checks([torch.optim.Adam], dtypes=[torch.float64], expected_failures={float32: ""})


def test_expected_failures_are_strict():
    names = ["it takes steps", "it is a published variant of Adam"]
    expected = {names[1]: "it is SGD"}

    sgd, adam = (
        check_adam(cls, dtypes=[torch.float32], only=names, expected_failures=expected)
        for cls in (torch.optim.SGD, torch.optim.Adam)
    )

    assert sgd.passed
    assert sgd[names[1]].status is Status.EXPECTED
    assert not adam.passed
    assert adam[names[1]].detail == "holds, but was expected to fail: it is SGD"


class Arrays(ArrayOptimizer):
    """Adam in NumPy, as an example of another framework."""

    def start(self, parameters, lr, b1, b2, eps):
        self.p, self.options, self.t = parameters, (lr, b1, b2, eps), 0
        self.m, self.v = ([0 * p for p in parameters] for _ in "mv")

    def advance(self, gradients):
        lr, b1, b2, eps = self.options
        self.t += 1
        for i, g in enumerate(gradients):
            self.m[i] = b1 * self.m[i] + (1 - b1) * g
            self.v[i] = b2 * self.v[i] + (1 - b2) * g * g
            m, v = self.m[i] / (1 - b1**self.t), self.v[i] / (1 - b2**self.t)
            self.p[i] = (self.p[i] - lr * m / (v**0.5 + eps)).astype(g.dtype)
        return self.p


def test_an_optimizer_of_another_framework_is_checked_through_an_adapter():
    """The adapter has two methods. Checks of bfloat16, which NumPy lacks, and of groups are not applicable."""
    report = check_adam(Arrays, variant="algorithm 1", expected_failures={
        "invalid hyper-parameters are refused": "it checks nothing",
        "a zero gradient moves nothing, float16": "as in torch",
    })  # fmt: skip

    assert report.passed, str(report)
    assert report.facts["takes"] == "lr, b1/b2, eps"
    assert report["every step is within its bound, float64"].status is Status.HOLDS
    assert report["every step is within its bound, bfloat16"].status is Status.NOT_APPLICABLE
    assert report["groups keep their own options"].status is Status.NOT_APPLICABLE


def refuses_others(params, **options):
    """Take any name, and refuse those that torch's Adam has besides the three of Algorithm 1."""
    if unknown := options.keys() - {"lr", "betas", "eps"}:
        raise ValueError(f"unknown: {min(unknown)}")
    return torch.optim.Adam(params, **options)


@pytest.mark.parametrize(
    ("make", "takes", "decay"),
    [
        (lambda params, **o: torch.optim.AdamW(params, **o), "lr, betas, eps, weight_decay, amsgrad, maximize",  # noqa: PLW0108
         "0.01 by default"),
        (lambda params, lr: torch.optim.AdamW(params, lr=lr), "lr", "0.01, always"),
        (lambda params, lr, beta1, beta2: torch.optim.Adam(params, lr, (beta1, beta2)), "lr, beta1/beta2", None),
        (refuses_others, "lr, betas, eps", None),
    ],
)  # fmt: skip
def test_the_accepted_hyper_parameters_are_detected(make, takes, decay):
    """From the signature, or by trying them if it has ``**kwargs``; a decay that cannot be disabled is reported."""
    report = check_adam(make, dtypes=[torch.float32])

    assert report.facts["takes"] == takes
    assert report.facts.get("weight decay") == decay
    assert report.passed, str(report)


class RefusesAmsgrad(torch.optim.Adam):
    """Has the argument, as its base class has, but refuses ``True``, as 8-bit optimizers do."""

    def __init__(self, params, lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0, amsgrad=False):  # noqa: FBT002
        if amsgrad:
            raise ValueError("no amsgrad")
        super().__init__(params, lr, betas, eps, weight_decay)


def test_a_flag_that_the_constructor_refuses_is_not_used():
    report = check_adam(RefusesAmsgrad, dtypes=[torch.float32], variant="adam")

    assert report.facts["takes"] == "lr, betas, eps, weight_decay"
    assert report.passed, str(report)


class TupleGroups:
    """Adam whose ``param_groups`` and state have other contents than in torch's interface."""

    def __init__(self, params, lr=1e-3):
        self.inner = torch.optim.Adam(params, lr)
        self.param_groups = [tuple(self.inner.param_groups[0]["params"])]

    def step(self):
        self.inner.step()

    def state_dict(self):
        return [self.inner.state_dict()]

    def load_state_dict(self, state):
        self.inner.load_state_dict(*state)


def test_param_groups_and_a_state_with_other_contents_than_torchs_are_not_failures():
    report = check_adam(TupleGroups, dtypes=[torch.float32])

    assert report.passed, str(report)
    for name in ("a schedule is followed", "groups keep their own options", "hyper-parameters are not written to"):
        assert report[name].detail == "its param_groups are not dictionaries"
    assert report["a loaded state brings its options"].detail == "its state holds no options"


class OwnGroups(torch.optim.Adam):
    """Adam whose groups hold the learning rate by another name than torch's schedulers use."""

    def __init__(self, params, lr=1e-3):
        super().__init__(params, lr)
        for options in (self.defaults, *self.param_groups):
            options["rate"] = options.pop("lr")

    def step(self):
        for group in self.param_groups:
            group["lr"] = group["rate"]
        super().step()
        for group in self.param_groups:
            del group["lr"]


class NothingInGroups(TupleGroups):
    """Adam whose groups hold parameters only."""

    def __init__(self, params, lr=1e-3):
        super().__init__(params, lr)
        self.param_groups = [{"params": group["params"]} for group in self.inner.param_groups]


class NoGroups:
    """Adam of a list of parameters, without torch's interface of groups."""

    def __init__(self, params, lr=1e-3):
        if not all(isinstance(p, torch.Tensor) for p in params):
            raise TypeError("params should be tensors")
        self.inner = torch.optim.Adam(params, lr)

    def step(self):
        self.inner.step()

    def zero_grad(self):
        self.inner.zero_grad()


@pytest.mark.parametrize(
    ("make", "reasons"),
    [
        (OwnGroups, {"a schedule is followed": "it has no lr that a schedule could change"}),
        (NothingInGroups, dict.fromkeys(
            ("groups keep their own options", "a loaded state brings its options"),
            "its groups hold none of lr, eps, weight_decay and betas")),
        (NoGroups, dict.fromkeys(
            ("the caller's group is not written to", "groups keep their own options", "clearing gradients clears them"),
            "it takes no groups: raises TypeError: params should be tensors when it is constructed")),
    ],
)  # fmt: skip
def test_an_interface_that_an_adam_lacks_is_not_applicable(make, reasons):
    report = check_adam(make, dtypes=[torch.float32])

    assert {name: report[name].detail for name in reasons} == reasons
    assert all(report[name].status is Status.NOT_APPLICABLE for name in reasons)
    assert report.passed, str(report)
