"""The command line: ``python -m benchmarks.report``."""

from collections.abc import Iterable, Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path

import click

from benchmarks.report.comparison import cautions, verdicts
from benchmarks.report.plots import common_scale, plot_sizes, plot_strategies
from benchmarks.report.records import PLOTTED, Run, Scale, read_all
from benchmarks.report.tables import device_table, origins, scale_name, size_of, table


class _BadInput(click.ClickException):
    exit_code = click.UsageError.exit_code


class _Size(click.ParamType):  # type: ignore[type-arg] # generic only in the newest click
    """Rows and hidden units with an x between them."""

    name = "ROWSxHIDDEN"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> Scale:
        sides = value.split("x")
        if len(sides) != 2 or not all(side.isdecimal() for side in sides):
            self.fail(f"{value!r} is not rows and hidden units with an x between them, such as 4x4.", param, ctx)
        return int(sides[0]), int(sides[1])


def _write(runs: Sequence[Run], directory: Path, scale: Scale | None) -> Iterator[str]:
    """Write both plots, and return them as Markdown with a sentence on each."""
    scales = {record.scale for run in runs for record in run.steps()}
    if not scales:
        yield f"No benchmark is in the group '{PLOTTED}', so there is nothing to plot."
        return
    scale = scale or common_scale(runs)
    if scale not in scales:
        here = ", ".join(scale_name(one) for one in sorted(scales, key=size_of))
        raise ValueError(f"--scale is {scale_name(scale)}, but should be one of the timed sizes: {here}")
    directory.mkdir(parents=True, exist_ok=True)
    sizes, strategies = directory / "sizes.png", directory / "strategies.png"
    plot_sizes(runs).savefig(sizes, dpi=120)
    yield f"![Time a step against size]({sizes})\n"
    yield from (f"- {verdict}" for run in runs for verdict in verdicts(run))
    plot_strategies(runs, scale).savefig(strategies, dpi=120)
    yield f"\n![The strategies side by side]({strategies})"


def _report(runs: Sequence[Run], pictures: Iterable[str]) -> Iterator[str]:
    yield f"{origins(runs)}\n"
    yield from (f"> **Warning:** {caution}\n" for caution in cautions(runs))
    yield "Times are of one step, or of one call where a benchmark has no steps; a ratio below 1 is faster."
    groups = dict.fromkeys(record.group for run in runs for record in run.records.values())
    for group in sorted(groups, key=lambda group: (group != PLOTTED, group)):
        yield f"\n### {group}\n\n{table(runs, group)}"
        for run in runs:
            if (own := device_table(run, group)) is not None:
                yield f"\n### {group}, on the GPU of {run.label}\n\n{own}"
    yield ""
    yield from pictures


@click.command(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.argument(
    "files",
    metavar="RUN.json [OTHER.json ...]",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    nargs=-1,
    required=True,
)
@click.option("--plots", type=click.Path(file_okay=False, path_type=Path), default=".", help="Directory of the plots.")
@click.option("--scale", type=_Size(), help="Size in strategies.png.  [default: the size with the most times]")
def main(files: tuple[Path, ...], plots: Path, scale: Scale | None) -> None:
    """Print recorded benchmarks as a Markdown table, and write two plots.

    The plots are sizes.png, the time of a step against its size on CPU and CUDA, and strategies.png,
    the strategies side by side. Each further file is compared with the first, with a warning if a
    comparison would mislead.

    Exit status: 0, or 2 on bad usage or for a file that is not a record of these benchmarks.
    """
    if find_spec("matplotlib") is None:
        raise click.UsageError("the plots need matplotlib, which is not installed: pip install matplotlib")
    try:
        runs = read_all(files)
        lines = list(_report(runs, list(_write(runs, plots, scale))))
    except (OSError, ValueError) as error:
        raise _BadInput(str(error)) from error
    click.echo("\n".join(lines))


if __name__ == "__main__":
    main(prog_name="python -m benchmarks.report")
