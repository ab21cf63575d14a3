"""Training under the Trainer: what stops it, what it leaves behind, and going on from there."""

import io
import re
import signal
import sys
from pathlib import Path

import pytest
import torch

from simplenet import SimpleNet, XORDataModule, load_checkpoint, set_seed, train, training

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


@pytest.mark.claim("5/listing-learns")
def test_the_listing_is_not_solved_and_its_mse_is_not_below_a_quarter(tmp_path):
    result = run(tmp_path, architecture="listing", max_epochs=400)

    assert not result.solved
    assert result.stopped_by == "budget"
    assert result.mse >= 0.25


def test_the_trainer_adds_nothing_to_a_bare_loop(tmp_path):
    """The same bits as forward, backward and step by hand."""
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
    """Yield everything in a checkpoint, with where it is; floats of a tensor's dtype lose nothing in a list."""
    if isinstance(value, dict | list | tuple):
        for name, part in value.items() if isinstance(value, dict) else enumerate(value):
            yield from leaves(part, (*path, name))
    else:
        yield path, (value.dtype, value.tolist()) if isinstance(value, torch.Tensor) else value


@pytest.mark.parametrize("resumed", [False, True])
def test_the_bare_epochs_leave_behind_what_the_trainers_own_would(tmp_path, monkeypatch, resumed):
    """The whole checkpoint: weights, moments, the counters of every loop; past one that is saved on the way."""
    results = []
    for led in ("bare", "trainer"):
        if led == "trainer":
            monkeypatch.setattr(
                training, "_saves", lambda *_: True
            )  # an epoch that is saved is not followed by bare ones
        directory = tmp_path / led
        first = run(directory, batch_size=3, max_epochs=13)
        result = run(directory, batch_size=3, max_epochs=130, resume=first.checkpoint) if resumed else first
        results.append((result, torch.load(result.checkpoint, weights_only=True)))

    (bare, left), (led, expected) = results
    assert bare.losses == led.losses
    assert bare.checkpoint.name == led.checkpoint.name
    for checkpoint in (left, expected):
        del checkpoint["callbacks"]  # which names the directory
    assert dict(leaves(left)) == dict(leaves(expected))


@pytest.mark.parametrize("stop", [1, 37])
@pytest.mark.parametrize("batch_size", [1, 3])
def test_a_run_that_is_stopped_and_resumed_equals_one_that_never_stopped(tmp_path, stop, batch_size):
    whole = run(tmp_path / "whole", batch_size=batch_size, max_epochs=40)

    stopped = run(tmp_path / "parts", batch_size=batch_size, max_epochs=stop)
    resumed = run(tmp_path / "parts", batch_size=batch_size, max_epochs=40, resume=stopped.checkpoint)

    assert stopped.losses + resumed.losses == whole.losses
    assert resumed.steps == whole.steps
    assert all(map(torch.equal, weights(resumed.net), weights(whole.net)))


def test_the_last_state_is_saved_and_loads_without_running_code(tmp_path):
    result = run(tmp_path, max_epochs=7)

    checkpoint = torch.load(result.checkpoint, weights_only=True)

    assert checkpoint["global_step"] == result.steps == 7
    assert all(map(torch.equal, weights(load_checkpoint(result.checkpoint)), weights(result.net)))


def test_every_hundredth_epoch_and_the_last_are_saved(tmp_path, monkeypatch):
    saved = []
    keep = training.ModelCheckpoint.on_train_epoch_end

    def on_train_epoch_end(saver, trainer, net):
        saved.append(trainer.current_epoch + 1)
        keep(saver, trainer, net)

    monkeypatch.setattr(training.ModelCheckpoint, "on_train_epoch_end", on_train_epoch_end)

    run(tmp_path, architecture="listing", max_epochs=230)

    assert saved == [100, 200, 230]


def test_an_interrupt_ends_the_run_after_its_epoch_with_the_state_kept(tmp_path, monkeypatch):
    """Ctrl-C in the second step of the third epoch; the checkpoint goes on from that epoch's end."""
    step = SimpleNet.training_step
    calls = []

    def interrupted_step(self, *arguments):
        calls.append(None)
        if len(calls) == 4 * 2 + 2:
            signal.raise_signal(signal.SIGINT)
        return step(self, *arguments)

    monkeypatch.setattr(SimpleNet, "training_step", interrupted_step)
    handler = signal.getsignal(signal.SIGINT)  # a shell's background jobs ignore it
    result = run(tmp_path, batch_size=1, max_epochs=50)

    assert result.stopped_by == "interrupt"
    assert result.steps == 12
    assert torch.load(result.checkpoint, weights_only=True)["global_step"] == 12
    assert signal.getsignal(signal.SIGINT) is handler


def test_predictions_that_are_no_longer_finite_stop_the_run(tmp_path):
    result = run(tmp_path, lr=1e30, max_epochs=50)

    assert result.stopped_by == "divergence"
    assert not result.solved
    assert result.steps < 50


def test_a_learning_rate_of_zero_changes_nothing(tmp_path):
    set_seed(SEED)
    before = weights(SimpleNet())

    result = run(tmp_path, lr=0.0, max_epochs=3)

    assert all(map(torch.equal, weights(result.net), before))


@pytest.mark.parametrize(
    "content",
    [b"", b"not a checkpoint", b"PK\x03\x04 truncated", "weights", "list"],
    ids=["empty", "text", "truncated", "other weights", "no dict"],
)
def test_a_file_that_is_no_checkpoint_is_refused_by_name(tmp_path, content):
    path = tmp_path / "file.ckpt"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        torch.save({"weights": {"a": torch.ones(1)}, "list": [1]}[content], path)

    with pytest.raises(ValueError, match=r"file\.ckpt should be a checkpoint of a SimpleNet"):
        load_checkpoint(path)


class Malicious:
    """What runs code when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_code_in_a_checkpoint_is_not_run(tmp_path):
    path, trace = tmp_path / "file.ckpt", tmp_path / "trace"
    torch.save(Malicious(trace), path)

    with pytest.raises(ValueError, match=r"file\.ckpt should be"):
        load_checkpoint(path)

    assert not trace.exists()
    torch.load(path, weights_only=False)
    assert trace.exists(), "the file is harmless, and the test says nothing"


def test_a_missing_checkpoint_is_an_os_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        load_checkpoint(tmp_path / "none.ckpt")


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_terminal_shows_one_bar_over_the_whole_run(tmp_path, monkeypatch):
    monkeypatch.setattr("sys.stderr", Terminal())

    run(tmp_path, max_epochs=30)

    (bar,) = sys.stderr.getvalue().splitlines(keepends=False)[-1:]
    assert sys.stderr.getvalue().count("\n") == 1
    assert "30/30" in bar
    assert re.search(r"mse=2\.\d\de-01", bar)


def test_after_a_resume_the_bar_goes_on_and_ends_full_where_xor_is_solved(tmp_path, monkeypatch):
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
