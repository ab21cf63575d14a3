"""Training under the Trainer: what stops it, what it saves, and how it resumes.

``test_checkpoint.py`` tests the contents of checkpoints.
"""

import errno
import io
import json
import math
import os
import re
import shutil
import signal
import sys
from functools import partial

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from torch.utils.data import DataLoader, TensorDataset

from simplenet import SimpleNet, XORDataModule, load_checkpoint, set_seed, train, training, xor
from simplenet.checkpoint import read_checkpoint
from simplenet.signals import ENDING
from simplenet.testing.settings import default_dtype
from simplenet.testing.strategies import floats
from tests.checkpoints import loaded, saved
from tests.children.background import Background
from tests.children.forked import launch

SEED = 1996


def run(tmp_path, *, architecture="overview", batch_size=4, max_epochs=3000, lr=0.01, resume=None):
    set_seed(SEED)
    net = load_checkpoint(resume) if resume else SimpleNet(architecture, lr=lr)
    data = XORDataModule(batch_size)
    return train(net, data, max_epochs=max_epochs, device="cpu", checkpoint_dir=tmp_path, resume=resume)


def weights(net):
    return [parameter.detach().clone() for parameter in net.parameters()]


def test_the_same_seed_gives_the_same_bits(tmp_path):
    first, second = (run(tmp_path, max_epochs=50) for _ in range(2))

    assert first.losses == second.losses
    assert all(map(torch.equal, weights(first.net), weights(second.net)))


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_a_caller_without_gradients_gets_the_same_bits(tmp_path, mode):
    set_seed(SEED)
    net = SimpleNet()
    with mode():
        train(net, XORDataModule(4), max_epochs=10, device="cpu", checkpoint_dir=tmp_path)

    assert all(map(torch.equal, weights(net), weights(run(tmp_path, max_epochs=10).net)))


@pytest.mark.claim("5/listing-learns")
def test_the_listing_is_not_solved_and_its_mse_is_not_below_a_quarter(tmp_path):
    result = run(tmp_path, architecture="listing", max_epochs=400)

    assert not result.solved
    assert result.stopped_by == "budget"
    assert result.mse >= 0.25


def test_the_trainer_trains_to_the_bits_of_a_bare_loop(tmp_path):
    """Of forward, backward and step."""
    result = run(tmp_path, batch_size=1, max_epochs=25)

    set_seed(SEED)
    net = SimpleNet()
    optimizer = net.configure_optimizers()
    losses = []
    for _ in range(25):
        for inputs, targets in XORDataModule().train_dataloader():
            optimizer.zero_grad()
            loss = torch.nn.functional.mse_loss(net(inputs), targets)
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    assert result.losses == losses
    assert all(map(torch.equal, weights(result.net), weights(net)))


def leaves(value, path=()):
    """Yield every value in a checkpoint with its path; a tensor's values are exact in a list of Python's floats."""
    if isinstance(value, dict | list | tuple):
        for name, part in value.items() if isinstance(value, dict) else enumerate(value):
            yield from leaves(part, (*path, name))
    else:
        yield path, (value.dtype, value.tolist()) if isinstance(value, torch.Tensor) else value


@pytest.mark.parametrize("resumed", [False, True])
def test_the_bare_loop_leaves_the_same_state_as_the_trainers_loop(tmp_path, monkeypatch, resumed):
    """The whole checkpoint: weights, moments, the counters of every loop; also after an earlier checkpoint."""
    results = []
    for loop in ("bare", "trainer"):
        if loop == "trainer":
            monkeypatch.setattr(training, "_is_saved", lambda *_: True)  # the bare loop ends at a saved epoch
        directory = tmp_path / loop
        first = run(directory, batch_size=3, max_epochs=13)
        result = run(directory, batch_size=3, max_epochs=130, resume=first.checkpoint) if resumed else first
        results.append((result, torch.load(result.checkpoint, weights_only=True)))

    (bare, left), (trainers, expected) = results
    assert bare.losses == trainers.losses
    assert bare.checkpoint.name == trainers.checkpoint.name
    assert dict(leaves(left)) == dict(leaves(expected))


def kill_and_resume(kills, seed, directory):
    arguments = ["-m", "tests.children.killed_training", str(directory), str(kills), str(seed)]
    return [launch(*arguments, directory=directory, output="answer.json")]


killed = Background(partial(kill_and_resume, 4, 1996))


def assert_same_bits(directory):
    """At least three of four kills come after the first save, so that there is a checkpoint to resume from."""
    answer = json.loads((directory / "answer.json").read_text())
    assert answer["other"] == 0
    assert sum(epochs > 0 for epochs in answer["from"]) >= len(answer["from"]) * 3 / 4


forks = pytest.mark.skipif(not hasattr(os, "fork"), reason="this platform does not fork")


@forks
def test_a_run_that_is_killed_and_resumed_equals_an_uninterrupted_run(finished):
    """By SIGKILL, which cannot be handled, at random moments."""
    assert_same_bits(finished(killed))


@forks
@pytest.mark.soak
def test_two_hundred_runs_that_are_killed_and_resumed_equal_an_uninterrupted_run(tmp_path):
    (process,) = kill_and_resume(200, 7, tmp_path)

    _, errors = process.communicate()
    assert process.returncode == 0, errors.decode()
    assert_same_bits(tmp_path)


@pytest.mark.parametrize("batch_size", [1, 3])
def test_a_resumed_run_saves_the_same_checkpoint_as_an_uninterrupted_run(tmp_path, batch_size):
    """Including the counters of Lightning's loops."""
    first = run(tmp_path / "parts", batch_size=batch_size, max_epochs=13)

    resumed = run(tmp_path / "parts", batch_size=batch_size, max_epochs=130, resume=first.checkpoint)

    whole = run(tmp_path / "whole", batch_size=batch_size, max_epochs=130)
    left, expected = (dict(leaves(torch.load(one.checkpoint, weights_only=True))) for one in (resumed, whole))
    assert left == expected


@pytest.mark.parametrize("stop", [1, 37])
@pytest.mark.parametrize("batch_size", [1, 3])
def test_a_run_that_is_stopped_and_resumed_equals_an_uninterrupted_run(tmp_path, stop, batch_size):
    whole = run(tmp_path / "whole", batch_size=batch_size, max_epochs=40)

    stopped = run(tmp_path / "parts", batch_size=batch_size, max_epochs=stop)
    resumed = run(tmp_path / "parts", batch_size=batch_size, max_epochs=40, resume=stopped.checkpoint)

    assert stopped.losses + resumed.losses == whole.losses
    assert resumed.steps == whole.steps
    assert all(map(torch.equal, weights(resumed.net), weights(whole.net)))


def test_two_runs_from_one_checkpoint_are_the_same_and_do_not_change_it(tmp_path):
    path = run(tmp_path, max_epochs=3).checkpoint
    checkpoint = read_checkpoint(path, training=True)

    nets = [SimpleNet() for _ in range(2)]
    for net in nets:
        train(net, XORDataModule(4), max_epochs=9, device="cpu", checkpoint_dir=tmp_path, resume=checkpoint)

    assert all(map(torch.equal, *map(weights, nets)))
    again = read_checkpoint(path, training=True)
    assert all(torch.equal(checkpoint.weights[name], again.weights[name]) for name in again.weights)
    for moments, expected in zip(checkpoint.training.moments, again.training.moments, strict=True):
        assert all(map(torch.equal, moments, expected))
    assert checkpoint.training.count == again.training.count == 3


@pytest.mark.parametrize(
    ("dtype", "before", "after"),
    [(torch.float32, 2**24, 2**24), (torch.float64, 2**24, 2**24 + 2), (torch.bfloat16, 2**8, 2**8)],
    ids=str,
)
def test_a_resumed_run_continues_adams_count_of_steps(tmp_path, dtype, before, after):
    """In the dtype that it has, up to the number from which that dtype cannot count by ones."""
    steps = 2**24
    whole = loaded(run(tmp_path, batch_size=2, max_epochs=3).checkpoint.read_bytes())
    whole |= {"global_step": steps, "epoch": steps // 2}
    for state in whole["optimizer_states"][0]["state"].values():
        state["step"] = torch.tensor(before, dtype=dtype)
    (tmp_path / "long.ckpt").write_bytes(saved(whole))

    resumed = run(tmp_path, batch_size=2, max_epochs=steps // 2 + 1, resume=tmp_path / "long.ckpt")

    state = read_checkpoint(resumed.checkpoint, training=True).training
    assert (state.steps, state.count.item(), state.count.dtype) == (steps + 2, after, dtype)


def test_the_last_state_is_saved_and_loads_without_running_code(tmp_path):
    result = run(tmp_path, max_epochs=7)

    checkpoint = torch.load(result.checkpoint, weights_only=True)

    assert checkpoint["global_step"] == result.steps == 7
    assert all(map(torch.equal, weights(load_checkpoint(result.checkpoint)), weights(result.net)))


def test_every_hundredth_epoch_and_the_last_are_saved(tmp_path, monkeypatch):
    saved = []
    monkeypatch.setattr(
        training.Trainer, "save_checkpoint", lambda trainer, *_, **__: saved.append(trainer.global_step)
    )

    run(tmp_path, architecture="listing", max_epochs=230)

    assert saved == [100, 200, 230]


def test_a_run_keeps_its_newest_checkpoint_and_removes_no_other_file(tmp_path):
    first = run(tmp_path, architecture="listing", max_epochs=100)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    again = run(tmp_path, architecture="listing", max_epochs=230)
    resumed = run(tmp_path, architecture="listing", max_epochs=330, resume=first.checkpoint)

    after = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert before.items() <= after.items()
    assert after.keys() - before.keys() == {again.checkpoint.name, resumed.checkpoint.name}
    for result in (first, again, resumed):
        assert torch.load(result.checkpoint, weights_only=True)["global_step"] == result.steps


def test_the_checkpoint_before_is_kept_if_the_next_cannot_be_written(tmp_path, monkeypatch):
    files = training._CheckpointFiles()  # noqa: SLF001
    files.save_checkpoint({"epoch": 1}, tmp_path / "1.ckpt")

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(training, "write_new_file", full)
    with pytest.raises(OSError, match="space"):
        files.save_checkpoint({"epoch": 2}, tmp_path / "2.ckpt")

    assert torch.load(tmp_path / "1.ckpt", weights_only=True) == {"epoch": 1}
    assert files.newest == tmp_path / "1.ckpt"


def test_predictions_may_be_differentiated(tmp_path):
    scale = torch.ones(1, requires_grad=True)
    predictions = run(tmp_path, max_epochs=1).predictions

    (scale * predictions).sum().backward()

    assert scale.grad == predictions.sum()


@given(
    values=st.lists(floats(torch.float32), min_size=1),
    place=st.none() | st.sampled_from([math.inf, -math.inf, math.nan]),
)
@example(values=[torch.finfo(torch.float32).max] * 2, place=None)
def test_a_state_is_finite_if_each_of_its_numbers_is(values, place):
    """Not their sum, which may overflow."""
    numbers = values if place is None else [*values, place]

    assert training._all_finite([torch.tensor(numbers), torch.zeros(2)]) == (place is None)  # noqa: SLF001


def test_a_second_run_in_a_directory_gives_its_checkpoint_a_new_name(tmp_path):
    names = [run(tmp_path, max_epochs=3).checkpoint.name for _ in range(3)]

    assert names == ["epoch=2-step=3.ckpt", "epoch=2-step=3-v1.ckpt", "epoch=2-step=3-v2.ckpt"]


def test_a_run_stops_where_every_prediction_is_within_the_margin(tmp_path, monkeypatch):
    """Of a tenth, and not before; in batches of four, an epoch has one step."""
    errors, end_epoch = [], training._Watch._end_epoch  # noqa: SLF001

    def recording(watch, net):
        with torch.no_grad():
            errors.append((net(xor()[0]) - xor()[1]).abs().max().item())
        end_epoch(watch, net)

    monkeypatch.setattr(training._Watch, "_end_epoch", recording)  # noqa: SLF001
    result = run(tmp_path)

    assert result.stopped_by == "solved"
    assert len(errors) == result.steps
    assert [error < 0.1 for error in errors] == [False] * (result.steps - 1) + [True]


@pytest.mark.parametrize(
    ("error", "right"),
    [(0.0, True), (0.1, True), (0.3, True), (0.4999, True), (0.5, False), (0.9, False), (math.nan, False)],
)
@pytest.mark.parametrize("row", range(4))
def test_a_prediction_of_one_half_is_right_for_neither_target(row, error, right):
    """A nearer one is right, also outside of the margin that stops a run; one wrong row leaves XOR unsolved."""
    predictions = xor()[1]
    predictions[row] = (predictions[row] - error).abs()

    result = training.TrainingRun(SimpleNet(), predictions, [], 0, 0.0, None, "budget", None)

    assert result.right == [right if i == row else True for i in range(4)]
    assert result.solved == right


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_a_result_has_the_dtype_of_its_run(dtype):
    """Whatever the default dtype is later."""
    result = training.TrainingRun(SimpleNet(), xor()[1].to(dtype), [], 0, 0.0, None, "budget", None)
    with default_dtype(torch.float32 if dtype is torch.float64 else torch.float64):
        assert result.mse == 0
        assert result.solved


@pytest.fixture
def signal_in_the_third_epoch(monkeypatch):
    """Return a function that makes a run in batches of one raise signals in the second step of the third epoch."""
    step = SimpleNet.training_step
    calls = []

    def arrange(*numbers):
        def interrupted_step(self, *arguments):
            calls.append(None)
            if len(calls) == 4 * 2 + 2:
                for number in numbers:
                    signal.raise_signal(number)
            return step(self, *arguments)

        monkeypatch.setattr(SimpleNet, "training_step", interrupted_step)

    return arrange


@pytest.fixture
def handlers():
    """Install a handler that raises for each ending signal; a shell's background jobs ignore some."""

    def raised(number, _):
        raise InterruptedError(number)

    before = {number: signal.signal(number, raised) for number in ENDING}
    yield dict.fromkeys(ENDING, raised)
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", ENDING)
def test_the_first_signal_ends_the_run_after_its_epoch_and_saves_the_state(
    tmp_path, handlers, signal_in_the_third_epoch, number
):
    """And restores the handlers."""
    signal_in_the_third_epoch(number)

    result = run(tmp_path, batch_size=1, max_epochs=50)

    assert result.stopped_by == number.name
    assert result.steps == 12
    assert torch.load(result.checkpoint, weights_only=True)["global_step"] == 12
    assert {number: signal.getsignal(number) for number in ENDING} == handlers


@pytest.mark.parametrize("second", ENDING)
@pytest.mark.parametrize("first", ENDING)
def test_the_second_signal_ends_the_run_at_once(tmp_path, handlers, signal_in_the_third_epoch, first, second):
    """By the handler that was installed before."""
    signal_in_the_third_epoch(first, second)

    with pytest.raises(InterruptedError):
        run(tmp_path, batch_size=1, max_epochs=50)

    assert list(tmp_path.iterdir()) == []
    assert {number: signal.getsignal(number) for number in ENDING} == handlers


def test_a_run_that_is_solved_in_the_epoch_of_a_signal_is_solved(tmp_path, monkeypatch):
    steps, step = run(tmp_path).steps, SimpleNet.training_step
    calls = []

    def signalled(self, *arguments):
        calls.append(None)
        if len(calls) == steps:
            signal.raise_signal(signal.SIGINT)
        return step(self, *arguments)

    monkeypatch.setattr(SimpleNet, "training_step", signalled)
    result = run(tmp_path)

    assert (result.stopped_by, result.steps) == ("solved", steps)


@pytest.mark.parametrize("number", ENDING)
def test_an_ignored_signal_stays_ignored(tmp_path, handlers, signal_in_the_third_epoch, number):
    """As SIGHUP is under nohup; the fixture restores the handlers."""
    assert number in handlers
    signal.signal(number, signal.SIG_IGN)
    signal_in_the_third_epoch(number)

    assert run(tmp_path, batch_size=1, max_epochs=5).stopped_by == "budget"


@pytest.mark.filterwarnings("ignore:Detected KeyboardInterrupt")  # Lightning before 2.5
def test_a_second_ctrl_c_is_a_keyboard_interrupt(tmp_path, handlers, signal_in_the_third_epoch):
    """Although Lightning from 2.5 on exits with status 1, and earlier versions continue."""
    assert signal.SIGINT in handlers
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal_in_the_third_epoch(signal.SIGINT, signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, batch_size=1, max_epochs=50)

    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


class Spoiled(XORDataModule):
    """The truth table with one value replaced."""

    def __init__(self, batch_size, part, row, value):
        super().__init__(batch_size)
        self.spoil = part, row, value

    def train_dataloader(self):
        part, row, value = self.spoil
        rows = [tensor.clone() for tensor in xor()]
        rows[part][row, 0] = value
        return DataLoader(TensorDataset(*rows), batch_size=self.hparams["batch_size"])


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize(("part", "row", "batch_size", "batch"), [(0, 2, 1, 3), (1, 3, 3, 2), (0, 0, 4, 1)])
def test_nonfinite_data_stop_the_run_before_their_step(tmp_path, part, row, batch_size, batch, value):
    """In an input or a target; the loss of an infinite input may be finite, because a sigmoid is."""
    data = Spoiled(batch_size, part, row, value)

    result = train(SimpleNet(), data, max_epochs=9, device="cpu", checkpoint_dir=tmp_path)

    assert result.stopped_by == "divergence"
    assert result.divergence == f"batch {batch} in epoch 1 holds a value that is not finite"
    assert result.steps == len(result.losses) == batch - 1
    assert result.checkpoint is None
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("epoch", [2, 101, 150])
def test_a_nonfinite_loss_stops_the_run_at_its_batch_and_keeps_the_last_checkpoint(tmp_path, monkeypatch, epoch):
    """In a step of the Trainer's loop (the epoch after a checkpoint) and in one of the bare loop."""
    step = SimpleNet.training_step
    calls = []

    def spoiled_step(self, *arguments):
        calls.append(None)
        loss = step(self, *arguments)
        return loss * math.nan if len(calls) == 4 * (epoch - 1) + 3 else loss

    monkeypatch.setattr(SimpleNet, "training_step", spoiled_step)
    result = run(tmp_path, architecture="listing", batch_size=1, max_epochs=200)

    assert result.divergence == f"the loss of batch 3 in epoch {epoch} is nan"
    assert result.steps == len(result.losses) == 4 * (epoch - 1) + 2
    assert all(weight.isfinite().all() for weight in weights(result.net))
    assert "log" not in vars(result.net)  # in the bare loop it is another
    if epoch > 100:
        assert load_checkpoint(result.checkpoint)
        assert result.checkpoint.name == "epoch=99-step=400.ckpt"
    else:
        assert result.checkpoint is None


def test_nonfinite_predictions_stop_the_run(tmp_path):
    result = run(tmp_path, lr=1e30, max_epochs=50)

    assert result.stopped_by == "divergence"
    assert not result.solved
    assert result.steps < 50


def test_a_nonfinite_moment_is_not_saved(tmp_path, monkeypatch):
    """The square of a finite gradient may be infinite; the weights do not change any more after it."""
    backward = torch.Tensor.backward

    def steep_backward(loss, *arguments, **options):
        backward(loss * 1e30, *arguments, **options)

    monkeypatch.setattr(torch.Tensor, "backward", steep_backward)
    result = run(tmp_path, max_epochs=5)

    assert result.divergence == "a weight or a moment of Adam after step 5 is not finite"
    assert result.checkpoint is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"architecture": "derivation"}, "architecture is 'derivation', but should be 'overview' as in .*ckpt"),
        ({"batch_size": 2}, "batch_size is 2, but should be 4"),
        ({"lr": 0.02}, "lr is 0.02, but should be 0.01"),
        ({"hidden": 5}, "hidden is 5, but should be 4"),
        ({"max_epochs": 13}, "max_epochs is 13, but should be more than the 13 done"),
        ({"max_epochs": 0}, "max_epochs is 0, but should be from 1 to"),
        ({"max_epochs": 10**9}, "max_epochs is 1000000000, but should be from 1 to"),
        ({"device": "abacus"}, "device is 'abacus', but should be"),
    ],
    ids=str,
)
def test_resuming_with_other_settings_than_the_checkpoints_is_refused_by_name(tmp_path, change, message):
    first = run(tmp_path, max_epochs=13)
    net = SimpleNet(change.get("architecture", "overview"), change.get("hidden", 4), change.get("lr", 0.01))
    data = XORDataModule(change.get("batch_size", 4))
    options = {"max_epochs": change.get("max_epochs", 50), "device": change.get("device", "cpu")}

    before = weights(net)

    with pytest.raises(ValueError, match=message):
        train(net, data, checkpoint_dir=tmp_path, resume=first.checkpoint, **options)

    assert all(map(torch.equal, weights(net), before)), "the network that was refused should not change"


def test_resuming_in_another_default_dtype_is_refused_by_name(tmp_path):
    """Whatever the dtype of the network; its weights would be rounded, or not fit the rows."""
    with default_dtype(torch.float64):
        first = run(tmp_path, max_epochs=3)
    wanted = f"default dtype is torch.float32, but should be torch.float64 as in {first.checkpoint}"

    for net in (SimpleNet(), load_checkpoint(first.checkpoint)):
        with pytest.raises(ValueError, match=f"^{re.escape(wanted)}$"):
            train(net, XORDataModule(4), max_epochs=9, checkpoint_dir=tmp_path, resume=first.checkpoint)


def test_a_checkpoint_that_was_read_for_its_weights_alone_is_refused_by_name(tmp_path):
    first = run(tmp_path, max_epochs=3)
    wanted = f"{first.checkpoint} was read without training=True, but resume needs the training state"

    with pytest.raises(ValueError, match=f"^{re.escape(wanted)}$"):
        train(first.net, XORDataModule(4), max_epochs=9, resume=read_checkpoint(first.checkpoint))


@pytest.mark.parametrize("max_epochs", [True, 1.0, "1", None])
def test_epochs_that_are_no_int_are_refused(tmp_path, max_epochs):
    with pytest.raises(TypeError, match="max_epochs is"):
        train(SimpleNet(), XORDataModule(), max_epochs=max_epochs, checkpoint_dir=tmp_path)


@pytest.mark.parametrize("name", ["https:x", "http-runs", "file:x", "a::b", "s3:", "with space", "best", "last"])
def test_a_checkpoint_directory_is_a_path_and_not_a_url(tmp_path, monkeypatch, name):
    """``best`` and ``last`` have no special meaning; paths are relative, as on a command line."""
    monkeypatch.chdir(tmp_path)
    stopped = run(name, max_epochs=3)

    resumed = run(name, max_epochs=6, resume=f"{name}/epoch=2-step=3.ckpt")

    assert stopped.losses + resumed.losses == run("whole", max_epochs=6).losses
    assert {path.name for path in (tmp_path / name).iterdir()} == {"epoch=2-step=3.ckpt", "epoch=5-step=6.ckpt"}


@pytest.mark.parametrize("at", [100, 200])
def test_a_directory_that_is_removed_under_a_run_is_an_os_error(tmp_path, monkeypatch, at):
    directory = tmp_path / "checkpoints"
    save = training.Trainer.save_checkpoint

    def save_nowhere(trainer, *arguments, **options):
        if trainer.global_step == at:
            shutil.rmtree(directory)
        save(trainer, *arguments, **options)

    monkeypatch.setattr(training.Trainer, "save_checkpoint", save_nowhere)

    with pytest.raises(FileNotFoundError, match=f"epoch={at - 1}-step={at}.ckpt"):
        run(directory, architecture="listing", max_epochs=230)


def test_a_learning_rate_of_zero_changes_nothing(tmp_path):
    set_seed(SEED)
    before = weights(SimpleNet())

    result = run(tmp_path, lr=0.0, max_epochs=3)

    assert all(map(torch.equal, weights(result.net), before))


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_terminal_shows_one_progress_bar_for_the_whole_run(tmp_path, monkeypatch):
    monkeypatch.setattr("sys.stderr", Terminal())

    run(tmp_path, max_epochs=30)

    (bar,) = sys.stderr.getvalue().splitlines(keepends=False)[-1:]
    assert sys.stderr.getvalue().count("\n") == 1
    assert "30/30" in bar
    assert re.search(r"mse=2\.\d\de-01", bar)


def test_after_a_resume_the_progress_bar_continues_and_ends_full_when_xor_is_solved(tmp_path, monkeypatch):
    first = run(tmp_path, max_epochs=13)
    bars = []

    class Bar(training.tqdm):
        def close(self):
            bars.append((self.initial, self.n, self.total))
            super().close()

    monkeypatch.setattr("sys.stderr", Terminal())
    monkeypatch.setattr(training, "tqdm", Bar)
    result = run(tmp_path, resume=first.checkpoint)

    assert result.stopped_by == "solved"
    assert set(bars) == {(13, result.steps, result.steps)}  # in batches of four, an epoch is a step
