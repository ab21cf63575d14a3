"""Properties of devices: every device is tested, moving between them changes nothing, defaults are respected.

Other tests with the ``device`` fixture compare the values on each device with the exact ones.
"""

from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from pathlib import Path

import pytest
import torch
from hypothesis import given

import conftest
from simplenet import SimpleNet, mse_loss, xor
from simplenet.testing.assertions import assert_identical
from simplenet.testing.settings import matmul_precision
from simplenet.testing.strategies import networks
from tests.children.background import Background
from tests.children.forked import launch

PROJECT = Path(__file__).parent.parent
SELECTIONS = ["", "--device cuda", "--device cpu"]


def start_with_a_pretended_gpu(directory):
    output = str(directory / "output")
    return [launch("-m", "tests.children.pretended_gpu", *SELECTIONS, directory=PROJECT, output=output)]


pretended_gpu = Background(start_with_a_pretended_gpu)


def untested(config, items):
    """Return the available types of device that ``items`` do not test, although ``--device`` includes them."""
    if config.getoption("--device") != "all":
        return set()
    tested = {item.callspec.params["device"].type for item in items if "device" in getattr(item, "fixturenames", ())}
    return {"cpu", *["cuda"] * torch.cuda.is_available()} - tested


def test_every_device_runs_the_network(device):
    """And the output is on that device."""
    assert SimpleNet().to(device)(xor()[0].to(device)).device.type == device.type


def test_a_run_on_a_machine_with_a_gpu_checks_it(request):
    """Unless ``--device`` selects another device."""
    missing = untested(request.config, request.session.items)

    assert not missing, f"this run has no test on {missing}, but should test every available device"


def test_a_gpu_that_no_test_runs_on_is_reported(request, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    on_the_cpu = [item for item in request.session.items if "cuda" not in item.name]

    missing = untested(request.config, on_the_cpu)

    assert missing >= {"cuda"} or request.config.getoption("--device") != "all"


def probe(device):
    """Multiply numbers by 1 that TF32, with its 10 fraction bits, does not represent."""
    values = torch.full((64, 64), 1 + 2.0**-12, device=device)
    return values, values @ torch.eye(64, device=device)


def test_float32_products_are_not_rounded_to_tf32(device):
    """With torch's default settings, on any device."""
    values, product = probe(device)

    assert_identical(product, values, claim="values times the identity")


def test_products_in_tf32_are_rounded(device):
    if device.type != "cuda" or torch.cuda.get_device_capability(device) < (8, 0):
        pytest.skip(f"{device} has no TF32, which needs CUDA capability 8.0")
    with matmul_precision("high"):
        values, product = probe(device)

    assert not torch.equal(product, values)


def steps(net, optimizer, count):
    x, y = (rows.to(next(net.parameters())) for rows in xor())
    for _ in range(count):
        optimizer.zero_grad()
        mse_loss(net(x), y).backward()
        optimizer.step()


def state(net, optimizer):
    moments = optimizer.state_dict()["state"]
    return [
        *net.state_dict().values(),
        *(torch.as_tensor(value) for entry in moments.values() for value in entry.values()),
    ]


@given(net=networks())
def test_moving_to_a_device_and_back_in_mid_training_changes_no_bit(device, net):
    """Of the weights and of Adam's state; training continues as if nothing had been moved."""
    optimizer = net.configure_optimizers()
    steps(net, optimizer, 3)
    before = [values.clone() for values in state(net, optimizer)]

    moved = SimpleNet(**net.hparams).to(device)
    moved.load_state_dict(net.state_dict())
    elsewhere = moved.configure_optimizers()
    elsewhere.load_state_dict(deepcopy(optimizer.state_dict()))  # torch would share the tensors

    for values, expected in zip(state(moved, elsewhere), before, strict=True):
        assert_identical(values, expected, claim=f"on {device}")
    moments = {
        value.device.type for entry in elsewhere.state.values() for name, value in entry.items() if name != "step"
    }
    assert moments == {device.type}
    moved.cpu()
    elsewhere.load_state_dict(elsewhere.state_dict())
    for trained, by in ((net, optimizer), (moved, elsewhere)):
        steps(trained, by, 3)
    for values, expected in zip(state(moved, elsewhere), state(net, optimizer), strict=True):
        assert_identical(values, expected, claim=f"three steps after {device}")


@pytest.mark.parametrize(
    ("version", "found", "left"), [((2, 9), None, ":4096:8"), ((2, 9), ":16:8", ":16:8"), ((2, 10), None, None)]
)
def test_cublas_is_configured_before_the_first_product_on_cuda(version, found, left):
    environment = {} if found is None else {"CUBLAS_WORKSPACE_CONFIG": found}

    conftest.configure_cublas(environment, version)

    assert environment.get("CUBLAS_WORKSPACE_CONFIG") == left


def test_variables_set_by_the_first_use_of_cuda_are_allowed(monkeypatch):
    """Torch up to 2.8 and Lightning each set an environment variable."""
    before = conftest._global_state()  # noqa: SLF001

    monkeypatch.setenv("CUDA_MODULE_LOADING", "LAZY")
    monkeypatch.setenv("CUDA_DEVICE_ORDER", "PCI_BUS_ID")
    assert conftest._global_state() == before  # noqa: SLF001

    monkeypatch.setenv("A_VARIABLE_OF_THE_TEST", "0")
    assert conftest._global_state() != before  # noqa: SLF001


def in_a_thread(make):
    """Call a function in another thread, because the default device is a setting of the thread."""
    with ThreadPoolExecutor() as thread:
        return thread.submit(make).result()


@pytest.mark.parametrize("name", ["cpu", "meta", "cuda"])
def test_the_default_device_decides_where_weights_and_data_are_made(name):
    if name == "cuda" and not torch.cuda.is_available():
        pytest.skip("there is no CUDA device here")

    def make():
        torch.set_default_device(name)
        try:
            net, rows = SimpleNet(), xor()
            return [*net.parameters(), *rows, net(rows[0])]
        finally:  # before torch 2.1, the default is global
            torch.set_default_device(None)

    made = in_a_thread(make)

    assert {values.device.type for values in made} == {name}
    assert torch.ones(()).device.type == "cpu"


def test_the_default_device_can_be_reset():
    """By ``None``, as torch documents; Lightning's modules read the default."""

    def make():
        torch.set_default_device("cpu")
        torch.set_default_device(None)
        return SimpleNet()

    assert in_a_thread(make).device.type == "cpu"


def test_with_a_gpu_the_suite_is_collected_for_each_device(finished):
    """No row of tests/ledger/defects.toml requires a test on a device that was not selected."""
    output = (finished(pretended_gpu) / "output").read_text("utf-8")

    for options in SELECTIONS:
        assert f"collected with {tuple(options.split())}: <ExitCode.OK: 0>" in output, output


def test_training_on_the_cpu_with_a_gpu_available_warns_of_nothing(finished):
    """With ``--device cpu``."""
    output = (finished(pretended_gpu) / "output").read_text("utf-8")

    assert "warnings: []" in output, output
