"""The command line: its output, its errors and its exit status."""

import errno
import json
import logging
import os
import re
import shlex
import signal
import subprocess
import sys
import warnings
from importlib.metadata import version
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from packaging.version import Version

from simplenet import SimpleNet, TrainingRun, load_checkpoint, train_ensemble
from simplenet.certificate import certify
from simplenet.cli import _report, main
from simplenet.environment import describe, resolve_device
from simplenet.validation import MAX_EPOCHS
from tests.children.background import Background
from tests.children.forked import ROOT


@pytest.fixture
def cli(tmp_path, monkeypatch):
    """Return a function that runs a command line in an empty directory."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        return CliRunner().invoke(main, [str(argument) for argument in arguments])

    return run


def test_training_prints_the_predicted_truth_table(cli, tmp_path):
    result = cli("train", "--batch-size", 4, "--plot", "run.png")

    assert result.exit_code == 0, result.output
    assert f"torch      {version('torch')}" in result.output
    assert f"device     {describe(resolve_device('auto'))['device']}" in result.output
    table = re.findall(r"^ ([01])  ([01]) +([01]) +(-?\d\.\d{4})  right$", result.output, re.MULTILINE)
    assert [(a, b, target) for a, b, target, _ in table] == [
        ("0", "0", "0"),
        ("0", "1", "1"),
        ("1", "0", "1"),
        ("1", "1", "0"),
    ]
    assert re.search(r"^solved after [\d,]+ steps in [\d.]+ s, MSE 0\.00\d{4}$", result.output, re.MULTILINE)
    checkpoint = re.search(r"^checkpoint (.*)$", result.output, re.MULTILINE)[1]
    assert (tmp_path / checkpoint).is_file()
    assert (tmp_path / "run.png").read_bytes().startswith(b"\x89PNG")

    scored = cli("predict", checkpoint, "0,1", "1,1", "-1,0")

    assert scored.exit_code == 0
    assert [line.split()[::2] for line in scored.output.splitlines()[:2]] == [["0,1", "true"], ["1,1", "false"]]
    assert scored.output.splitlines()[0].split()[1] == table[1][3]


RIGHT, WRONG = [0.25, 0.75, 1.0, -0.25], [0.25, 0.5, 1.0, -0.25]
SOLVED = [
    "",
    " a  b  target  prediction",
    " 0  0       0      0.2500  right",
    " 0  1       1      0.7500  right",
    " 1  0       1      1.0000  right",
    " 1  1       0     -0.2500  right",
    "",
    "solved after 1,234 steps in 5.7 s, MSE 0.046875",
    "checkpoint run.ckpt",
]
UNSOLVED = [
    *SOLVED[:3],
    " 0  1       1      0.5000  wrong",
    *SOLVED[4:7],
    "not solved after 1,234 steps in 5.7 s, MSE 0.093750",
    "checkpoint run.ckpt",
]
THEOREM = [
    "The listing can never solve XOR: without a hidden activation it is an affine map under a sigmoid,",
    "no straight line separates XOR's classes, and its MSE is never below 1/4.",
]
RESUME = "simplenet train --resume run.ckpt"
LOSS = "the loss of step 7 is nan"


@pytest.mark.parametrize(
    ("architecture", "changes", "report"),
    [
        ("overview", {"predictions": RIGHT, "stopped_by": "solved"}, SOLVED),
        ("overview", {}, [*UNSOLVED, f"Stopped at --max-epochs; resume with: {RESUME}"]),
        ("listing", {}, [*UNSOLVED, *THEOREM]),
        ("derivation", {"stopped_by": "SIGTERM"}, [*UNSOLVED, f"Stopped by SIGTERM; resume with: {RESUME}"]),
        ("listing", {"stopped_by": "SIGINT"}, [*UNSOLVED, *THEOREM, f"Stopped by SIGINT; resume with: {RESUME}"]),
        (
            "overview",
            {"stopped_by": "divergence", "divergence": LOSS},
            [*UNSOLVED, f"Stopped: {LOSS}; the checkpoint was saved before. Try a smaller --lr."],
        ),
        (
            "overview",
            {"stopped_by": "divergence", "divergence": LOSS, "checkpoint": None},
            [*UNSOLVED[:-1], "checkpoint none", f"Stopped: {LOSS}; no state was saved before. Try a smaller --lr."],
        ),
    ],
)
def test_a_report_has_the_truth_table_the_result_and_a_hint(architecture, changes, report):
    """However a run ends."""
    run = {"predictions": WRONG, "checkpoint": Path("run.ckpt"), "stopped_by": "budget", "divergence": None, **changes}
    run["predictions"] = torch.tensor(run["predictions"])[:, None]

    text = _report(TrainingRun(SimpleNet(architecture), losses=[], steps=1234, seconds=5.678, **run), RESUME)

    assert text.split("\n") == report


def test_a_second_run_prints_the_same_numbers(cli):
    first, second = (
        re.sub(r"in [\d.]+ s|-v\d+", "", cli("train", "--max-epochs", 30, "--seed", 7).output) for _ in range(2)
    )

    assert first == second


def test_the_listing_ends_with_status_1_and_the_reason(cli):
    result = cli("train", "--architecture", "listing", "--batch-size", 4, "--max-epochs", 500)

    assert result.exit_code == 1
    assert "MSE 0.250000" in result.output
    assert "%|" not in result.output, "a progress bar where there is no terminal"
    assert "never solve XOR" in result.output


@pytest.mark.parametrize(("most", "more"), [(MAX_EPOCHS, 10), (8, 8)])
def test_a_run_that_reaches_max_epochs_says_how_to_resume(cli, monkeypatch, most, more):
    """With a command that has the options that a checkpoint does not decide, and more epochs, as far as allowed."""
    monkeypatch.setattr("simplenet.cli.MAX_EPOCHS", most)
    options = ("--max-epochs", 5, "--checkpoint-dir", "a user's", "--device", "cpu")
    result = cli("train", "--architecture", "derivation", "--batch-size", 2, *options)
    command = re.search(r"^Stopped at --max-epochs; resume with: simplenet (.*)$", result.output, re.MULTILINE)[1]
    assert result.exit_code == 1

    resumed = cli(*shlex.split(command))

    assert f"--max-epochs {more} --device cpu --checkpoint-dir" in command
    assert "derivation, resumed from" in resumed.output
    assert f"not solved after {2 * more} steps" in resumed.output
    assert "checkpoint a user's/" in resumed.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--seed", "-1"], "-1 is not in the range"),
        (["--seed", "4294967296"], "4294967296 is not in the range"),
        (["--seed", "1.5"], "'1.5' is not a valid integer"),
        (["--lr", "-1"], "lr is -1.0, but should be"),
        (["--lr", "nan"], "lr is nan, but should be"),
        (["--lr", "inf"], "lr is inf, but should be from 0 to 1e+37"),
        (["--max-epochs", "0"], "0 is not in the range"),
        (["--max-epochs", "10000001"], "10000001 is not in the range"),
        (["--batch-size", "0"], "0 is not in the range"),
        (["--batch-size", "1048577"], "batch_size is 1048577, but should be from 1 to 1048576"),
        (["--architecture", "other"], "'other' is not one of 'overview', 'derivation', 'listing'"),
        (["--device", "abacus"], "device is 'abacus', but should be auto or an available device: cpu"),
        (["--device", "cuda:99"], "device is 'cuda:99', but should be"),
        (["--resume", "none.ckpt"], "'none.ckpt' does not exist"),
        (["--resume", "text.ckpt"], "text.ckpt should be a checkpoint of a SimpleNet"),
        (["--resume", "text.ckpt", "--seed", "3"], "--seed cannot be combined with --resume"),
        (["--checkpoint-dir", "text.ckpt"], "--checkpoint-dir is 'text.ckpt', which cannot be written: File exists"),
        (["--checkpoint-dir", "text.ckpt/inside"], "--checkpoint-dir is 'text.ckpt/inside', which cannot be written"),
        (["--plot", "run.docx"], "plot is 'run.docx', but should end in one of"),
        (["--plot", "none/run.png"], "plot is 'none/run.png', but should be in a directory that exists"),
        (["--unknown"], "No such option"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_input_to_train_ends_with_one_clear_line_and_status_2(cli, tmp_path, arguments, message):
    (tmp_path / "text.ckpt").write_text("text")

    result = cli("train", "--max-epochs", "1", *arguments)

    assert result.exit_code == 2, result.output
    assert isinstance(result.exception, SystemExit)
    assert message in result.output.splitlines()[-1]
    assert not result.stdout


@pytest.mark.parametrize(
    ("flag", "value"), [("architecture", "overview"), ("seed", 1996), ("hidden", 4), ("batch-size", 1), ("lr", 0.01)]
)
def test_options_stored_in_the_checkpoint_are_refused_with_resume(cli, tmp_path, flag, value):
    """Even with the same value."""
    (tmp_path / "text.ckpt").write_text("text")

    result = cli("train", "--resume", "text.ckpt", f"--{flag}", value)

    assert result.exit_code == 2
    message = f"Error: --{flag} cannot be combined with --resume: the checkpoint decides it"
    assert result.output.splitlines()[-1] == message


def test_too_few_epochs_for_a_resume_are_refused(cli):
    cli("train", "--max-epochs", 2, "--checkpoint-dir", "kept")

    result = cli("train", "--resume", "kept/epoch=1-step=8.ckpt", "--max-epochs", 2)

    assert result.exit_code == 2
    assert "--max-epochs is 2, but should be more than the 2 done" in result.output


def test_a_directory_is_resumed_from_its_newest_intact_checkpoint(cli, tmp_path):
    cli("train", "--max-epochs", 2, "--checkpoint-dir", "kept")
    (tmp_path / "kept" / "later.ckpt").write_text("text")

    result = cli("train", "--resume", "kept", "--max-epochs", 3)

    assert "resumed from kept/epoch=1-step=8.ckpt" in result.output
    assert "not solved after 12 steps" in result.output
    assert "skipped    kept/later.ckpt should be a checkpoint of a SimpleNet" in result.stderr


@pytest.mark.parametrize("content", [None, "text"], ids=["empty", "without an intact one"])
def test_a_directory_without_a_checkpoint_to_resume_from_is_refused(cli, tmp_path, content):
    (tmp_path / "kept").mkdir()
    if content is not None:
        (tmp_path / "kept" / "text.ckpt").write_text(content)

    result = cli("train", "--resume", "kept")

    assert result.exit_code == 2
    assert "kept should hold a checkpoint (*.ckpt) of a training run, but holds none" in result.stderr
    assert ("text.ckpt should be a checkpoint" in result.stderr) == (content is not None)


@pytest.mark.parametrize(("architecture", "epochs"), [("overview", 2), ("overview", 1), ("listing", 2)])
@pytest.mark.parametrize(("name", "status"), [("SIGINT", 130), ("SIGTERM", 143), ("SIGHUP", 129)])
def test_a_signal_ends_training_with_its_status_and_saves_the_state(
    cli, monkeypatch, architecture, epochs, name, status
):
    """The statuses 0 and 1 are for a run that finishes. It can be resumed, also after a signal in its last epoch."""
    number = getattr(signal, name)
    step = SimpleNet.training_step

    def interrupted_step(self, *arguments):
        monkeypatch.setattr(SimpleNet, "training_step", step)
        signal.raise_signal(number)
        return step(self, *arguments)

    monkeypatch.setattr(SimpleNet, "training_step", interrupted_step)
    before = signal.signal(number, signal.SIG_DFL)  # a shell's background jobs ignore some
    try:
        result = cli("train", "--architecture", architecture, "--max-epochs", epochs)
    finally:
        signal.signal(number, before)

    assert result.exit_code == status, result.output
    command = re.search(rf"^Stopped by {name}; resume with: simplenet (.*)$", result.output, re.MULTILINE)[1]
    assert "not solved after 4 steps" in result.output
    assert "not solved after 8 steps" in cli(*shlex.split(command)).output


@pytest.mark.parametrize(
    ("raised", "status", "message"),
    [
        (OSError(28, "No space left on device", "x.ckpt"), 2, "Error: [Errno 28] No space left on device: 'x.ckpt'"),
        (ValueError("hidden is 0"), 2, "Error: hidden is 0"),
        (RuntimeError("no such kernel"), 3, "RuntimeError: no such kernel"),
    ],
    ids=repr,
)
@pytest.mark.parametrize(
    "command", [["train"], ["certify"], ["predict", "c.ckpt", "0,1"], ["info"]], ids=lambda c: c[0]
)
def test_no_unexpected_error_exits_with_status_0_or_1(cli, tmp_path, monkeypatch, command, raised, status, message):
    """Status 3 with a traceback; expected errors have status 2 and one line."""
    (tmp_path / "c.ckpt").write_text("")

    def fail(*_, **__):
        raise raised

    for function in ("training.train", "certificate.certify", "model.load_checkpoint", "environment.describe"):
        monkeypatch.setattr(f"simplenet.{function}", fail)

    result = cli(*command)

    assert result.exit_code == status
    assert result.stderr.splitlines()[-1] == message
    assert (len(result.stderr.splitlines()) > 1) == (status == 3)


def broken_pipe():
    """Open a pipe that nothing reads."""
    reader, writer = os.pipe()
    os.close(reader)
    return os.fdopen(writer, "w")


def full_disk():
    return Path("/dev/full").open("w")


def ended_with_unwritable(monkeypatch, name, stream, *arguments):
    """Run a command whose stdout or stderr cannot be written; return its exit status."""
    with stream:
        monkeypatch.setattr(f"sys.{name}", stream)
        with pytest.raises(SystemExit) as ending:
            main(arguments)
        stream.write("more")  # later output, such as what Python writes again at exit, is discarded
        stream.flush()
    return ending.value.code


FULL = f"Error: standard output cannot be written: {os.strerror(errno.ENOSPC)}\n"
FULL_DISK = pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")


@pytest.mark.parametrize("command", ["info", "--help"])
@pytest.mark.parametrize(
    ("opened", "status", "message"),
    [(broken_pipe, 128 + signal.SIGPIPE, ""), pytest.param(full_disk, 2, FULL, marks=FULL_DISK)],
    ids=["pipe", "disk"],
)
def test_output_that_cannot_be_written_ends_a_command(monkeypatch, capsys, command, opened, status, message):
    """With the status of SIGPIPE if the reader of a pipe has closed it, or one line and status 2."""
    assert ended_with_unwritable(monkeypatch, "stdout", opened(), command) == status
    assert capsys.readouterr().err == message


@pytest.mark.parametrize("arguments", ["--unknown", "train --lr x", "info --device abacus"])
@pytest.mark.parametrize("opened", [broken_pipe, pytest.param(full_disk, marks=FULL_DISK)])
def test_a_message_that_cannot_be_written_does_not_change_the_status(monkeypatch, opened, arguments):
    assert ended_with_unwritable(monkeypatch, "stderr", opened(), *arguments.split()) == 2


@pytest.mark.usefixtures("cli")
def test_training_without_stderr_is_training_without_a_progress_bar(monkeypatch):
    """Python sets ``sys.stderr`` to None if a program is started with it closed."""
    monkeypatch.setattr("sys.stderr", None)

    with pytest.raises(SystemExit) as ending:
        main(["train", "--max-epochs", "2"])

    assert ending.value.code == 1
    assert list(Path("checkpoints").iterdir())


@pytest.mark.parametrize("level", [logging.NOTSET, logging.INFO, logging.CRITICAL])
def test_commands_hide_warnings_of_torch_and_lightning_but_not_their_errors(cli, monkeypatch, level):
    """Warnings of other modules are shown, and the logging level is restored."""
    seen = []

    def warn(device):
        for module in ("lightning.fabric.utilities", "torch.nn", "lightningrod", "simplenet.x"):
            warnings.warn_explicit("beware", UserWarning, "file.py", 1, module)
        seen.append(
            [word for word in (logging.INFO, logging.WARNING, logging.ERROR) if logging.root.isEnabledFor(word)]
        )
        return describe(device)

    monkeypatch.setattr("simplenet.environment.describe", warn)
    before = logging.root.manager.disable
    logging.disable(level)
    try:
        with warnings.catch_warnings(record=True) as shown:
            warnings.simplefilter("always")
            result = cli("info")
        after = logging.root.manager.disable
    finally:
        logging.disable(before)

    assert result.exit_code == 0
    assert seen == [[logging.ERROR]]
    assert len(shown) == 2
    assert after == level


def eager(*arguments, **options):
    """Train an ensemble without waiting for a compiler."""
    return train_ensemble(*arguments, **options | {"compiled": False})


@pytest.mark.parametrize("command", [["train"], ["predict", "c.ckpt", "0,1"], ["info"]], ids=lambda c: c[0])
def test_ctrl_c_exits_with_status_130(cli, tmp_path, monkeypatch, command):
    """Click by itself exits with 1, which is a result of training."""
    (tmp_path / "c.ckpt").write_text("")

    def interrupt(*_, **__):
        raise KeyboardInterrupt

    for function in ("training.train", "model.load_checkpoint", "environment.describe"):
        monkeypatch.setattr(f"simplenet.{function}", interrupt)

    result = cli(*command)

    assert result.exit_code == 130
    assert result.stderr == ""


def test_each_file_that_becomes_unwritable_is_reported_and_the_others_are_written(cli, tmp_path, monkeypatch):
    """After the result is printed."""
    target = tmp_path / "gone" / "run.json"
    target.parent.mkdir()

    def certify_and_remove(*arguments, **options):
        target.parent.rmdir()
        return certify(*arguments, **options)

    monkeypatch.setattr("simplenet.certificate.certify", certify_and_remove)
    arguments = ["--seeds", 3, "--steps", 2, "--json", target, "--plot", "run.png"]
    monkeypatch.setattr("simplenet.certificate.train_ensemble", eager)
    result = cli("certify", *arguments)

    assert result.exit_code == 2
    assert "of 3 seeds solve XOR" in result.output
    assert f"Error: --json is '{target}', which cannot be written: No such file or directory" in result.stderr
    assert (tmp_path / "run.png").is_file()
    assert "plot       run.png" in result.output.splitlines()


@pytest.mark.parametrize("command", [["train", "--plot"], ["certify", "--plot"], ["certify", "--json"]], ids=" ".join)
@pytest.mark.parametrize("path", ["none/run.png", "directory.png", "text.ckpt/run.png"])
def test_a_file_that_cannot_be_written_is_refused_before_training(cli, tmp_path, monkeypatch, command, path):
    monkeypatch.setattr("simplenet.training.train", lambda *_, **__: pytest.fail("it was trained"))
    monkeypatch.setattr("simplenet.certificate.certify", lambda *_, **__: pytest.fail("it was trained"))
    (tmp_path / "directory.png").mkdir()
    (tmp_path / "text.ckpt").write_text("")

    result = cli(*command, path)

    assert result.exit_code == 2
    option, last = command[-1], result.stderr.splitlines()[-1]
    missing = f"Error: {option.removeprefix('--')} is '{path}', but should be in a directory that exists"
    assert last == missing or last.startswith(f"Error: {option} is '{path}', which cannot be written: ")


def test_hidden_sets_the_width_of_the_network(cli, tmp_path):
    """Here of 2-2-1, which often fails on XOR."""
    cli("train", "--hidden", 2, "--max-epochs", 1)

    (checkpoint,) = (tmp_path / "checkpoints").iterdir()
    assert load_checkpoint(checkpoint).input_layer.out_features == 2


def test_hidden_sets_the_width_of_the_networks_of_a_certificate(cli, tmp_path, monkeypatch):
    monkeypatch.setattr("simplenet.certificate.train_ensemble", eager)

    result = cli("certify", "--hidden", 2, "--seeds", 3, "--steps", 2, "--json", "c.json")

    assert "overview 2-2-1, batch 4, 2 steps: " in result.output
    (certificate,) = json.loads((tmp_path / "c.json").read_text())["certificates"]
    assert certificate["hidden"] == 2


def test_a_plot_without_matplotlib_says_what_to_install(cli, monkeypatch):
    monkeypatch.setattr("simplenet.cli.find_spec", lambda _name: None)

    result = cli("train", "--plot", "run.png")

    assert result.exit_code == 2
    message = "Error: --plot needs matplotlib, which is not installed: pip install matplotlib"
    assert result.output.splitlines()[-1] == message


@pytest.mark.parametrize(("score", "word"), [(0.5, "false"), (0.5000001, "true"), (0.4999999, "false"), (1.0, "true")])
def test_a_prediction_of_one_half_is_false(cli, tmp_path, monkeypatch, score, word):
    """A larger one is true."""
    net = SimpleNet()
    for parameter in net.parameters():
        parameter.data.zero_()
    net.output_layer.bias.data.fill_(score)
    monkeypatch.setattr("simplenet.model.load_checkpoint", lambda _: net)
    (tmp_path / "c.ckpt").write_text("")

    assert cli("predict", "c.ckpt", "0,1").output.split() == ["0,1", f"{score:.4f}", word]


@pytest.mark.parametrize("row", ["0", "0,1,2", "a,b", "nan,0", "0,inf", "--rows"])
def test_a_row_that_is_not_two_numbers_is_refused(cli, tmp_path, row):
    (tmp_path / "text.ckpt").write_text("text")

    result = cli("predict", "text.ckpt", row)

    assert result.exit_code == 2
    assert f"Error: Invalid value for 'ROWS...': '{row}' should be two finite numbers" in result.output


def test_a_row_that_is_too_large_for_the_networks_dtype_is_refused(cli, monkeypatch, tmp_path):
    """Its prediction would be that of infinity, or NaN."""
    monkeypatch.setattr("simplenet.model.load_checkpoint", lambda _: SimpleNet().float())
    (tmp_path / "c.ckpt").write_text("")

    result = cli("predict", "c.ckpt", "3e38,0", "0,-1e39")

    assert result.exit_code == 2
    assert result.output == "Error: row 0,-1e+39 is too large for torch.float32, whose largest number is 3.40282e+38\n"
    assert cli("predict", "c.ckpt", "3e38,0", "0,-3e38").exit_code == 0


def test_rows_have_the_networks_dtype(cli, monkeypatch, tmp_path):
    """Their digits and their range."""
    seen = []

    class Recording(SimpleNet):
        def forward(self, x):
            seen.append(x)
            return super().forward(x)

    monkeypatch.setattr("simplenet.model.load_checkpoint", lambda _: Recording().double())
    (tmp_path / "c.ckpt").write_text("")

    result = cli("predict", "c.ckpt", "0.1,1e300")

    assert result.exit_code == 0, result.output
    assert torch.equal(torch.cat(seen), torch.tensor([[0.1, 1e300]], dtype=torch.float64))


FLAGS = {
    "deterministic": (lambda: torch.use_deterministic_algorithms(mode=True), "algorithms", "deterministic only"),
    "matmul": (lambda: torch.set_float32_matmul_precision("medium"), "matmul", "float32 at medium precision"),
    "dtype": (lambda: torch.set_default_dtype(torch.float64), "dtype", "float64"),
    "threads": (lambda: torch.set_num_threads(3), "threads", "3"),
    "cudnn deterministic": (
        lambda: setattr(torch.backends.cudnn, "deterministic", True), "cudnn", "deterministic True, benchmark False",
    ),
    "cudnn benchmark": (
        lambda: setattr(torch.backends.cudnn, "benchmark", True), "cudnn", "deterministic False, benchmark True",
    ),
    "cublas": (lambda: os.environ.update(CUBLAS_WORKSPACE_CONFIG=":16:8"), "cublas", ":16:8"),
}  # fmt: skip


@pytest.fixture
def flags_restored(monkeypatch):
    """Restore every flag that ``describe`` shows."""
    cudnn = torch.backends.cudnn
    before = torch.get_float32_matmul_precision(), torch.get_default_dtype(), torch.get_num_threads()
    monkeypatch.setattr(cudnn, "deterministic", False)
    monkeypatch.setattr(cudnn, "benchmark", False)
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", "")
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG")
    yield
    torch.use_deterministic_algorithms(mode=False)
    torch.set_float32_matmul_precision(before[0])
    torch.set_default_dtype(before[1])
    torch.set_num_threads(before[2])


@pytest.mark.parametrize("flag", FLAGS)
@pytest.mark.usefixtures("flags_restored")
def test_each_entry_of_a_description_follows_the_flag_that_it_names(flag):
    """And no other entry does."""
    turn, name, shown = FLAGS[flag]
    before = describe(torch.device("cpu"))

    turn()

    after = describe(torch.device("cpu"))
    assert after[name] == shown != before[name]
    assert {entry for entry in before if before[entry] != after[entry]} == {name}


def test_info_names_versions_device_threads_and_flags(cli):
    lines = dict(line.split(maxsplit=1) for line in cli("info").output.splitlines())

    assert Version(lines["torch"]).public == Version(version("torch")).public
    assert lines["lightning"] == version("lightning")
    assert lines["threads"].isdigit()
    assert lines["dtype"] == "float32"


@pytest.mark.parametrize("group", [(), ("check",)], ids=" ".join)
def test_no_summary_in_a_list_of_commands_is_cut_off(cli, group):
    """In a terminal of 80 columns."""
    commands = cli(*group, "--help").output.partition("Commands:\n")[2].splitlines()

    assert len(commands) > 1
    assert [line for line in commands if line.endswith("...")] == []


def test_help_and_the_reference_do_not_import_torch():
    """In a new process; importing torch takes seconds."""
    command = [sys.executable, "-m", "tests.children.light_import"]

    answer = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)

    assert answer.stdout.strip() == "[]"


def train_into_files(directory):
    """Run with the notebook's settings, seed 1996 and batch size 1."""
    command = [sys.executable, "-m", "simplenet", "train"]
    with (directory / "stdout").open("wb") as stdout, (directory / "stderr").open("wb") as stderr:
        return [subprocess.Popen(command, cwd=directory, stdout=stdout, stderr=stderr)]


piped = Background(train_into_files)


@pytest.mark.claim("4/learns")
def test_the_notebooks_run_learns_exclusive_or(finished):
    """And exits with status 0, which ``finished`` asserts."""
    report = (finished(piped) / "stdout").read_text()

    assert report.count("  right\n") == 4
    steps = re.search(r"^solved after ([\d,]+) steps in [\d.]+ s, MSE 0\.00\d{4}$", report, re.MULTILINE)[1]
    assert int(steps.replace(",", "")) < 4 * 3000


def test_a_pipe_gets_only_the_report(finished):
    """No progress bar, and no tips, hardware lines or warnings of Lightning."""
    directory = finished(piped)

    assert (directory / "stderr").read_text() == ""
    lines = (directory / "stdout").read_text().splitlines()
    assert lines[0].startswith("python")
    assert len(lines) == 14  # five about the environment, the table, the result and the checkpoint
