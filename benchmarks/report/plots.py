"""Time against size, and the strategies side by side."""

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from benchmarks.report.comparison import crossings_of, curves_of, missing_devices, timed_on_both
from benchmarks.report.records import DEVICES, Run, Scale
from benchmarks.report.tables import by_strategy, scale_name, si, size_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure


def _canvas(columns: int, width: float, height: float) -> "tuple[Figure, list[Axes]]":
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, list(figure.subplots(1, columns, sharex=True, sharey=True, squeeze=False)[0])


_COLOURS = {"cpu": "tab:blue", "cuda": "tab:orange"}
_MARKERS = "os^Dv<>ph*"


def _note(axes: "Axes", text: str, point: tuple[float, float], offset: tuple[float, float]) -> None:
    """Write next to a point, with a background so that lines do not hide the text."""
    paper = {"boxstyle": "square,pad=0.1", "facecolor": "white", "edgecolor": "none", "alpha": 0.8}
    axes.annotate(text, point, offset, textcoords="offset points", ha="center", va="center", fontsize=8, bbox=paper)


def _label(axis: "Axis", unit: str) -> None:
    """Label a logarithmic axis with SI prefixes, and between the powers of ten if it spans few of them."""
    from matplotlib.ticker import EngFormatter, LogLocator

    axis.set_major_formatter(EngFormatter(unit))
    low, high = axis.get_view_interval()
    if high < 30 * low:
        axis.set_minor_formatter(EngFormatter(unit))
    if 2 * low < high < 30 * low:  # labels at all ticks would overlap
        axis.set_minor_locator(LogLocator(subs=(2, 5)))


def _legend(figure: "Figure") -> None:
    """Draw one legend for all panels, beneath them."""
    named: dict[str, Any] = {}
    for axes in figure.axes:
        handles, labels = axes.get_legend_handles_labels()
        named |= dict(zip(labels, handles, strict=True))
    figure.legend(named.values(), named.keys(), loc="outside lower center", ncols=2, frameon=False)


def plot_sizes(runs: Sequence[Run]) -> "Figure":
    """Draw time per step against size, a panel for each run, with the crossovers of CPU and CUDA marked."""
    figure, panels = _canvas(len(runs), 2 + 5 * len(runs), 5.8)
    for axes, run in zip(panels, runs, strict=True):
        curves = curves_of(run)
        sizes: dict[float, str] = {}
        for name, each in curves.items():
            style = "o-" if name == "eager" else "s--"
            for device, records in each.items():
                x = [record.flops for record in records]
                sizes |= {record.flops: scale_name(record.scale) for record in records}
                label = f"{DEVICES[device]}, {name}"
                axes.plot(x, [record.median for record in records], style, color=_COLOURS[device], label=label, ms=5)
                low, high = zip(*(record.quartiles for record in records), strict=True)
                axes.fill_between(x, low, high, color=_COLOURS[device], alpha=0.2, linewidth=0)
            for size, time, _ in crossings_of(timed_on_both(each)):
                axes.plot(size, time, "kX", ms=9, zorder=3, linestyle="none", label="crossover, interpolated")
                _note(axes, si(size, "FLOP"), (size, time), (-22, 14))
        axes.set(xscale="log", yscale="log", xlabel="floating-point operations a step (top: rows x hidden)")
        absent = [f"no step on {name} in this file" for name in missing_devices(curves)]
        axes.set_title("; ".join([run.label, *absent]))
        _label(axes.xaxis, "")
        shapes = axes.secondary_xaxis("top")
        shapes.set_xticks(list(sizes), labels=list(sizes.values()), rotation=35, ha="left", fontsize=8)
        shapes.minorticks_off()
        axes.grid(visible=True, alpha=0.3)
    _label(panels[0].yaxis, "s")
    panels[0].set_ylabel("time a step (median; band: quartiles)")
    _legend(figure)
    return figure


def common_scale(runs: Sequence[Run]) -> Scale:
    """Return the scale at which most steps were timed, the smallest of several."""
    counts = Counter(record.scale for run in runs for record in run.steps())
    return min(counts, key=lambda scale: (-counts[scale], size_of(scale)))


def plot_strategies(runs: Sequence[Run], scale: Scale) -> "Figure":
    """Draw the time per step of each strategy and peer at one scale, for each run."""
    timed = [[record for record in run.steps() if record.scale == scale] for run in runs]
    drawn = sorted((record for records in timed for record in records), key=by_strategy)
    order = list(dict.fromkeys((record.strategy, record.device) for record in drawn))
    figure, (axes,) = _canvas(1, 8.5, 1.8 + len(order) * (0.1 + 0.2 * len(runs)))
    for row in range(1, len(order), 2):
        axes.axhspan(row - 0.5, row + 0.5, color="gray", alpha=0.08, linewidth=0)
    for i, (run, records) in enumerate(zip(runs, timed, strict=True)):
        marker = _MARKERS[i % len(_MARKERS)]
        for record in records:
            y = order.index((record.strategy, record.device)) + (i - (len(runs) - 1) / 2) * 0.8 / len(runs)
            colour = _COLOURS[record.device]
            axes.plot(record.quartiles, (y, y), color=colour, linewidth=3, alpha=0.4)
            axes.plot(record.median, y, marker, color=colour, ms=5)
            _note(axes, si(record.median, "s"), (max(record.median, *record.quartiles), y), (28, -0.5))
        if len(runs) > 1:
            axes.plot([], [], marker, color="gray", label=run.label)
        eager = [record for record in records if (record.strategy, record.device) == ("eager", "cpu")]
        if not i and eager:
            axes.axvline(eager[0].median, color="gray", linewidth=1, linestyle=":", label=f"eager on CPU, {run.label}")
    labels = [f"{strategy}, {DEVICES[device]}" for strategy, device in order]
    axes.set(xscale="log", xlabel="time a step (median; bar: quartiles)", yticks=range(len(order)), yticklabels=labels)
    axes.set(ylim=(len(order) - 0.5, -0.5), title=f"one step at {scale_name(scale)} (rows x hidden)")
    axes.margins(x=0.12)
    _label(axes.xaxis, "s")
    axes.grid(visible=True, axis="x", alpha=0.3)
    _legend(figure)
    return figure
