"""Faults in the command line, in its description of the environment, and in its plots."""

import contextlib
import io
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from click.testing import CliRunner

from simplenet import SimpleNet, TrainingRun, XORDataModule, cli, deterministic, environment, plot, train, xor
from simplenet.cli import certify, main, predict
from simplenet.testing.settings import default_dtype, matmul_precision
from tests.certificates import certificate as made
from tests.faults.planting import catalogue, edit, wrap

FAULTS, fault = catalogue("command")


def _printed(*arguments: str) -> object:
    with tempfile.TemporaryDirectory() as directory, contextlib.chdir(directory):
        result = CliRunner().invoke(main, arguments)
    return result.exit_code, result.stdout, result.stderr


def certified(*arguments: str, solved: int = 15, seeds: int = 20) -> Callable[[], object]:
    """Witness the output and the status of ``certify`` for given results."""

    def run() -> object:
        result = made([3] * solved + [-1] * (seeds - solved))
        with patch("simplenet.certificate.certify", lambda *_, **__: result):
            return _printed("certify", *arguments)

    return run


@fault(certified("--target", "0.75"), "test_a_target_between_the_two_bounds_is_not_reached")
def a_target_below_the_upper_bound_is_cleared() -> None:
    """The upper bound decides instead of the lower one."""
    edit(certify, ("certificate.bounds[0] < target", "certificate.bounds[1] < target"))


@fault(
    certified("--target", "0.9", "--architecture", "overview"), "test_a_target_between_the_two_bounds_is_not_reached"
)
def the_target_is_ignored() -> None:
    """The status is 0."""
    edit(certify, ("certificate.bounds[0] < target", "False"))


@fault(certified(solved=8), "test_a_list_at_its_length_limit_has_no_ellipsis")
def a_full_list_has_an_ellipsis() -> None:
    """Twelve failed seeds are followed by an ellipsis."""
    edit(cli._verdict, ("len(failed) > _NAMED", "len(failed) >= _NAMED"))


@fault(certified(solved=8), "test_a_list_at_its_length_limit_has_no_ellipsis")
def one_failed_seed_fewer_is_listed() -> None:
    """Eleven of twelve."""
    cli._NAMED = 11


@fault(certified(solved=3), "test_a_bound_below_the_target_has_status_1_and_describes_the_failed_seeds")
def only_one_failed_seed_is_described() -> None:
    """The others are listed."""
    cli._EXPLAINED = 1


def _interrupted() -> object:
    with patch("simplenet.certificate.certify", side_effect=KeyboardInterrupt), patch.object(cli, "kill_children"):
        return _printed("certify", "--seeds", "1", "--steps", "1")


@fault(_interrupted, "test_everything_but_results_goes_to_stderr")
def the_message_of_an_interrupt_goes_to_stdout() -> None:
    """A pipe takes it for a result."""
    edit(certify, (", err=True", ""))


def _predicted() -> object:
    net = SimpleNet()
    for p in net.parameters():
        p.data.zero_()
    net.output_layer.bias.data.fill_(0.5)
    with patch("simplenet.model.load_checkpoint", return_value=net):
        return _printed("predict", __file__, "0,1")


@fault(_predicted, "test_a_prediction_of_one_half_is_false")
def a_score_of_one_half_reads_as_true() -> None:
    """A score of 1/2 should be false."""
    edit(predict, ("prediction > 1 / 2", "prediction >= 1 / 2"))


def _failed() -> object:
    with patch.object(environment, "describe", side_effect=RuntimeError("no kernel")):
        return CliRunner().invoke(main, ["info"]).exit_code


@fault(_failed, "test_no_unexpected_error_exits_with_status_0_or_1")
def an_unexpected_error_has_status_1() -> None:
    """Status 1."""
    cli._DEFECT = 1


def _skipped() -> object:
    with tempfile.TemporaryDirectory() as directory, contextlib.chdir(directory):
        train(SimpleNet(), XORDataModule(4), max_epochs=1, device="cpu", checkpoint_dir="kept")
        Path("kept/later.ckpt").write_text("text")
        result = CliRunner().invoke(main, ["train", "--resume", "kept", "--max-epochs", "2"])
    return "skipped" in result.stdout, "skipped" in result.stderr


@fault(_skipped, "test_a_directory_is_resumed_from_its_newest_intact_checkpoint")
def a_skipped_checkpoint_is_named_on_stdout() -> None:
    """A pipe takes it for a result."""
    edit(cli._start, (", err=True", ""))


def _described(entry: str, setting: Callable[[], Any]) -> Callable[[], object]:
    """Witness an entry of the description under a setting."""

    def describe() -> object:
        with setting():
            return environment.describe(torch.device("cpu"))[entry]

    return describe


@fault(_described("cudnn", deterministic), "test_each_entry_of_a_description_follows_the_flag_that_it_names")
def the_flags_of_cudnn_are_exchanged() -> None:
    """Deterministic is benchmark."""
    edit(
        environment.describe,
        (
            "deterministic {torch.backends.cudnn.deterministic}, benchmark {torch.backends.cudnn.benchmark}",
            "deterministic {torch.backends.cudnn.benchmark}, benchmark {torch.backends.cudnn.deterministic}",
        ),
    )


@fault(_described("algorithms", deterministic), "test_each_entry_of_a_description_follows_the_flag_that_it_names")
def describe_always_reports_any_algorithm() -> None:
    """Also in deterministic mode."""
    edit(
        environment.describe,
        ("'deterministic only' if torch.are_deterministic_algorithms_enabled() else 'any'", "'any'"),
    )


@fault(
    _described("matmul", partial(matmul_precision, "medium")),
    "test_each_entry_of_a_description_follows_the_flag_that_it_names",
)
def describe_always_reports_the_highest_precision() -> None:
    """Also where TF32 is allowed."""
    edit(environment.describe, ("{torch.get_float32_matmul_precision()}", "highest"))


@fault(
    _described("dtype", partial(default_dtype, torch.float64)),
    "test_each_entry_of_a_description_follows_the_flag_that_it_names",
)
def describe_always_reports_float32() -> None:
    """For any default dtype."""
    edit(environment.describe, ("str(torch.get_default_dtype()).removeprefix('torch.')", "'float32'"))


def drawn(figure_of: Callable[[Path], None]) -> Callable[[], object]:
    """Witness the pixels of a plot."""

    def draw() -> object:
        buffer = io.BytesIO()
        with patch.object(plot, "_save", lambda figure, _: figure.savefig(buffer, format="png", dpi=30)):
            figure_of(Path("picture.png"))
        return hash(buffer.getvalue())

    return draw


def _certificates(path: Path) -> None:
    plot.plot_certificates([made([3, 50, 90, -1])], path)


def _run(path: Path) -> None:
    torch.manual_seed(1)
    net = SimpleNet()
    with torch.no_grad():  # so that 1/2 is passed in the middle
        net.output_layer.bias += 0.5 - net(torch.full((1, 2), 0.5))[0]
    losses = [1.0, 0.5, 0.25, 0.125, 0.0625, 0.03]
    plot.plot_run(TrainingRun(net, xor()[1], losses, 10, 1.0, None, "budget", None), path)


@fault(drawn(_certificates), "test_the_plot_of_a_certificate_shows_the_fraction_its_band_and_all_steps")
def the_band_has_the_confidence_of_one_bound() -> None:
    """The two bounds together then have less confidence."""
    edit(plot.plot_certificates, ("(1 + certificate.confidence) / 2", "certificate.confidence"))


@fault(drawn(_certificates), "test_the_plot_of_a_certificate_shows_the_fraction_its_band_and_all_steps")
def the_fraction_is_relative_to_the_solved_seeds() -> None:
    """It always ends at 1."""
    edit(plot.plot_certificates, ("counts / certificate.seeds", "counts / certificate.solved"))


@fault(drawn(_certificates), "test_the_plot_of_a_certificate_shows_the_fraction_its_band_and_all_steps")
def the_plot_ends_before_the_last_step() -> None:
    """At half of them."""
    edit(plot.plot_certificates, ("xlim=(0, first.steps)", "xlim=(0, first.steps // 2)"))


@fault(drawn(_run), "test_the_plot_of_a_run_shows_its_losses_their_mean_and_the_surface")
def the_curve_begins_at_step_1_after_a_resume() -> None:
    """Instead of at the step after the resume."""
    edit(plot.plot_run, ("np.arange(run.steps - len(losses) + 1, run.steps + 1)", "np.arange(1, len(losses) + 1)"))


@fault(drawn(_run), "test_the_plot_of_a_run_shows_its_losses_their_mean_and_the_surface")
def the_surface_has_its_axes_exchanged() -> None:
    """The first input is on the vertical axis."""
    edit(plot.plot_run, (".squeeze(-1).double().numpy()", ".squeeze(-1).double().numpy().T"))


@fault(drawn(_run), "test_the_plot_of_a_run_shows_its_losses_their_mean_and_the_surface")
def the_boundary_is_drawn_at_another_score() -> None:
    """At 0.6 instead of 1/2."""
    edit(plot.plot_run, ("levels=[0.5]", "levels=[0.6]"))


def _fabric() -> object:
    with patch("lightning.fabric.Fabric", side_effect=ValueError) as make:
        CliRunner().invoke(main, ["certify", "--devices", "2", "--strategy", "ddp"])
    return str(make.mock_calls)


@fault(_fabric, "test_devices_and_strategy_reach_fabric")
def one_device_is_used_instead_of_two() -> None:
    """The option is checked but not passed on."""
    edit(certify, ("devices=one if devices == 1 else devices", "devices=one"))


@fault(
    certified(),
    "test_no_unexpected_error_exits_with_status_0_or_1",
    "test_a_list_at_its_length_limit_has_no_ellipsis",
    control=True,
)
def lines_are_echoed_one_by_one() -> None:
    """The output is the same."""

    def change(echo: Callable[..., None], message: Any = None, **options: Any) -> None:
        echo(message, **options)

    wrap(cli.click, "echo", change)
