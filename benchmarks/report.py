"""Recorded benchmarks as a table and two plots: what a step costs, against eager on the CPU and against other runs.

``python -m benchmarks.report RUN.json [OTHER.json ...]`` reads what ``pytest --benchmark-only`` wrote for its option
``--benchmark-json=RUN.json``. The output is Markdown; a comparison that would mislead is preceded by a warning.
Neither torch nor a GPU is needed, so that a record can be read anywhere.
"""

import json
import math
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import chain, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

# The strategies of benchmarks.steps; what else is timed beside them is a peer.
STRATEGIES = ("eager", "foreach", "fused", "compiled", "compiled-chunk", "cuda-graph")
DEVICES = {"cpu": "CPU", "cuda": "CUDA"}

# A ratio between two runs is owed to one of these; where two differ, it cannot tell them apart.
_SUBJECTS = ("processor", "torch", "lightning", "python")
# And these should never differ: each changes the time, and none is what a reader thinks is compared.
_CONDITIONS = ("threads", "tf32", "commit", "steps", "timer", "disable_gc")
# What two strategies on one machine should share; the first two say nothing of another device.
_WITHIN = ("processor", "tf32", "threads", "torch", "lightning", "python", "commit", "timer", "disable_gc")

_PLOTTED = "training step"
_MAPPINGS = ("extra_info", "stats", "options")
_LEAST = sys.float_info.min  # what is above 0
_NONE = "-"
_UNKNOWN = "not recorded"

Scale = tuple[int | None, int | None]


class _BadInput(click.ClickException):
    exit_code = click.UsageError.exit_code


@dataclass(frozen=True)
class Record:
    """One benchmark of a run; its times are in seconds per step."""

    group: str
    name: str
    strategy: str
    device: str
    scale: Scale  # rows and hidden units
    flops: float  # floating-point operations per step, or NaN
    median: float
    iqr: float
    quartiles: tuple[float, float]
    facts: dict[str, str]  # what a comparison rests on
    device_seconds: float | None = None  # of a step, without what Python takes to launch it
    bandwidth: float | None = None  # bytes that a step has to move, in a second
    of_copy: float | None = None  # that as a fraction of what a plain copy moves
    peak: float | None = None  # bytes that torch had allocated at most

    @property
    def key(self) -> tuple[Any, ...]:
        """What makes it the same benchmark in another run."""
        return self.group, self.name, self.strategy, self.device, self.scale


@dataclass(frozen=True)
class Run:
    """The records of one file."""

    label: str
    records: dict[tuple[Any, ...], Record]
    modified: bool = False  # whether the working tree held changes that its commit lacks

    def steps(self) -> list[Record]:
        """Return the records of the group that is plotted."""
        return [record for record in self.records.values() if record.group == _PLOTTED]

    def baseline(self, record: Record) -> Record | None:
        """Return eager on the CPU in the same group at the same scale, where there is exactly one."""
        found = [
            other
            for other in self.records.values()
            if (other.group, other.scale, other.strategy, other.device) == (record.group, record.scale, "eager", "cpu")
        ]
        return found[0] if len(found) == 1 else None


def _number(holder: dict[str, Any], name: str, least: float = 0.0) -> float:
    value = holder.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value < math.inf:
        bound = {0.0: "", _LEAST: " above 0"}.get(least, f" of at least {least:g}")
        raise ValueError(f"{name} is {value!r}, but should be a finite number{bound}")
    return value


def _optional(holder: dict[str, Any], name: str, least: float = 0.0) -> float | None:
    return None if holder.get(name) is None else _number(holder, name, least)


def _record(benchmark: dict[str, Any], commit: str | None) -> Record:
    """Check one entry of pytest-benchmark's list, and divide its times by the steps of a timed call."""
    extra, stats, options = ({} if benchmark.get(name) is None else benchmark[name] for name in _MAPPINGS)
    for name, holder in zip(_MAPPINGS, (extra, stats, options), strict=True):
        if not isinstance(holder, dict):
            raise ValueError(f"{name} is {holder!r}, but should be a mapping")  # noqa: TRY004 - of a file, not a type
    for name in ("group", "name"):
        if not isinstance(benchmark.get(name), str):
            raise ValueError(f"{name} is {benchmark.get(name)!r}, but should be a name")  # noqa: TRY004 - likewise
    used = ("device", "strategy", "rows", "hidden", "steps", "flops_per_step", "threads", "tf32", "commit", *_SUBJECTS)
    if missing := [name for name in used if name not in extra]:
        raise ValueError(f"extra_info lacks {', '.join(missing)}")
    if extra["device"] not in list(DEVICES):
        raise ValueError(f"device is {extra['device']!r}, but should be one of {', '.join(DEVICES)}")
    steps = _optional(extra, "steps", 1) or 1
    rows, hidden = (_optional(extra, name, 1) for name in ("rows", "hidden"))
    facts = {name: extra[name] for name in (*_SUBJECTS, "threads", "tf32", "steps")}
    facts |= {"commit": extra["commit"] or commit, "timer": options.get("timer")}
    facts |= {"disable_gc": options.get("disable_gc")}
    return Record(
        group=benchmark["group"],
        name=benchmark["name"],
        strategy=str(extra["strategy"]),
        device=extra["device"],
        scale=(None if rows is None else int(rows), None if hidden is None else int(hidden)),
        flops=_optional(extra, "flops_per_step", _LEAST) or math.nan,
        median=_number(stats, "median", _LEAST) / steps,
        iqr=_number(stats, "iqr") / steps,
        quartiles=(_number(stats, "q1") / steps, _number(stats, "q3") / steps),
        facts={name: _UNKNOWN if value is None else str(value) for name, value in facts.items()},
        device_seconds=_optional(extra, "device_seconds_per_step"),
        bandwidth=_optional(extra, "bytes_per_second"),
        of_copy=_optional(extra, "fraction_of_copy"),
        peak=_optional(extra, "peak_memory_bytes"),
    )


def read(path: Path, label: str) -> Run:
    """Read a run from the JSON that pytest-benchmark wrote.

    Args:
        path: The file.
        label: What to call it.

    Raises:
        ValueError: If it is not such a file, or a benchmark in it is not one of this suite.
        OSError: If it cannot be read.
    """
    try:
        document = json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} should be JSON from pytest --benchmark-json, but is no JSON: {error}") from error
    benchmarks = document.get("benchmarks") if isinstance(document, dict) else None
    if not isinstance(benchmarks, list) or not all(isinstance(entry, dict) for entry in benchmarks):
        raise ValueError(f"{path} should be JSON from pytest --benchmark-json, but has no list of benchmarks")
    if not benchmarks:
        raise ValueError(f"{path} holds no benchmark: was it recorded with --benchmark-disable?")
    tree = document.get("commit_info")
    tree = tree if isinstance(tree, dict) else {}
    records = {}
    for entry in benchmarks:
        try:
            record = _record(entry, tree.get("id"))
        except ValueError as error:
            name = entry.get("fullname") or entry.get("name")
            raise ValueError(f"{path} should hold benchmarks of this suite, but in {name!r} {error}") from error
        if record.key in records:
            raise ValueError(f"{path} should hold each benchmark once, but holds {record.name!r} twice")
        records[record.key] = record
    return Run(label, records, modified=bool(tree.get("dirty")))


def read_all(paths: Sequence[Path]) -> list[Run]:
    """Read several runs; each is called after its file, or its path where two files share a name."""
    stems = [path.stem for path in paths]
    distinct = len(set(stems)) == len(stems)
    return [read(path, path.stem if distinct else str(path)) for path in paths]


def _differences(pairs: Iterable[tuple[Record, Record]], names: Sequence[str]) -> dict[str, Counter[tuple[str, str]]]:
    """Count, for each name, the pairs of values in which the records of a pair differ."""
    found: dict[str, Counter[tuple[str, str]]] = {name: Counter() for name in names}
    for one, other in pairs:
        for name in names:
            of_the_device = name in ("processor", "tf32")
            if one.facts[name] != other.facts[name] and not (of_the_device and one.device != other.device):
                found[name][one.facts[name], other.facts[name]] += 1
    return {name: values for name, values in found.items() if values}


def _told(name: str, values: Counter[tuple[str, str]], of: int, first: str, second: str) -> list[str]:
    return [
        f"{name} is {one} in {first}, but {other} in {second} ({count} of {of} benchmarks)"
        for (one, other), count in values.items()
    ]


def cautions(runs: Sequence[Run]) -> list[str]:
    """Say, a line each, why ratios within the runs, or between the first and another, would mislead."""
    lines = []
    for run in runs:
        pairs = [(base, record) for record in run.records.values() if (base := run.baseline(record)) is not None]
        for name, values in _differences(pairs, _WITHIN).items():
            told = _told(name, values, len(pairs), "eager", "what is compared with it")
            lines += [f"Ratios to eager in {run.label} mislead: {text}." for text in told]
    first = runs[0]
    for run in runs[1:]:
        prefix = f"{run.label} should not be compared with {first.label}:"
        pairs = [(record, run.records[key]) for key, record in first.records.items() if key in run.records]
        if not pairs:
            lines.append(f"{prefix} they have no benchmark in common.")
            continue
        for name, values in _differences(pairs, _CONDITIONS).items():
            lines += [f"{prefix} {text}." for text in _told(name, values, len(pairs), first.label, run.label)]
        subjects = _differences(pairs, _SUBJECTS)
        if len(subjects) > 1:
            both = [_told(name, values, len(pairs), first.label, run.label) for name, values in subjects.items()]
            lines.append(f"{prefix} a ratio cannot tell apart that {' and that '.join(chain.from_iterable(both))}.")
        for tree in (first, run):
            if tree.modified:
                lines.append(f"{prefix} {tree.label} ran with uncommitted changes, so its code is not known.")
    return lines


def _figures(value: float) -> str:
    """Write three significant digits, and no exponent."""
    value = float(f"{value:.3g}")
    return f"{value:,.{max(0, 2 - math.floor(math.log10(value)))}f}" if value else "0"


def _si(value: float, unit: str) -> str:
    """Write three significant digits with the prefix of the International System that suits them."""
    value = float(f"{value:.3g}")
    prefixes = {-3: "n", -2: "µ", -1: "m", 0: "", 1: "k", 2: "M", 3: "G", 4: "T"}
    power = min(max(math.floor(math.log10(value) / 3), min(prefixes)), max(prefixes)) if value else 0
    return f"{_figures(value / 1000**power)} {prefixes[power]}{unit}"


def _scale(scale: Scale) -> str:
    return _NONE if scale == (None, None) else "x".join(_NONE if side is None else str(side) for side in scale)


def _markdown(header: Sequence[str], rows: Sequence[Sequence[str]], text_columns: int) -> str:
    """Lay out a table, the first columns flush left and the others flush right."""
    cells = [[cell.replace("|", "\\|") for cell in row] for row in (header, *rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    rules = ["-" * width if i < text_columns else "-" * (width - 1) + ":" for i, width in enumerate(widths)]
    cells.insert(1, rules)
    lines = [
        [
            cell.ljust(width) if i < text_columns else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        for row in cells
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _origins(runs: Sequence[Run]) -> str:
    names = (*_SUBJECTS, "threads", "tf32", "commit")
    rows = []
    for run in runs:
        records = sorted(run.records.values(), key=lambda record: record.device)  # the CPU's name, then the GPU's
        found = [dict.fromkeys(record.facts[name] for record in records) for name in names]
        rows.append([run.label, *(", ".join(value for value in each if value != _UNKNOWN) or _NONE for each in found)])
    return _markdown(["run", *names], rows, 1 + len(names))


def _size(scale: Scale) -> tuple[int, Scale]:
    rows, hidden = (side or 0 for side in scale)
    return rows * hidden, (rows, hidden)


def _place(record: Record) -> tuple[int, str, str, str]:
    """Order by strategy, as benchmarks.steps lists them and then the peers, and by device; a file is sorted by time."""
    ours = STRATEGIES.index(record.strategy) if record.strategy in STRATEGIES else len(STRATEGIES)
    return ours, record.strategy, record.device, record.name


def table(runs: Sequence[Run], group: str) -> str:
    """Lay out one group: a row for each benchmark, by size and then by strategy; columns for each run.

    A benchmark that a run lacks has dashes there. Ratios are of times, so that less than 1 is faster.
    """
    found = {key: record for run in runs for key, record in run.records.items() if record.group == group}
    names = Counter((record.strategy, record.device, record.scale) for record in found.values())
    header = ["strategy", "device", "rows x hidden"]
    text_columns = len(header)
    for i, run in enumerate(runs):
        prefix = f"{run.label}: " if len(runs) > 1 else ""
        header += [f"{prefix}{column}" for column in ("median", "IQR", "/ eager on CPU")]
        header += [f"{run.label} / {runs[0].label}"] if i else []
    rows = []
    for key, record in sorted(found.items(), key=lambda item: (_size(item[1].scale), _place(item[1]))):
        ambiguous = names[record.strategy, record.device, record.scale] > 1
        row = [f"{record.strategy} ({record.name})" if ambiguous else record.strategy]
        row += [DEVICES[record.device], _scale(record.scale)]
        reference = runs[0].records.get(key)
        for i, run in enumerate(runs):
            own = run.records.get(key)
            base = run.baseline(own) if own else None
            row += [_si(own.median, "s"), _si(own.iqr, "s")] if own else [_NONE, _NONE]
            row += [_figures(own.median / base.median) if own and base else _NONE]
            if i:
                row += [_figures(own.median / reference.median) if own and reference else _NONE]
        rows.append(row)
    return _markdown(header, rows, text_columns)


def device_table(run: Run, group: str) -> str | None:
    """Lay out what CUDA's own clock and memory say of one group, or nothing where there is no such record."""
    timed = [record for record in run.records.values() if record.group == group and record.device == "cuda"]
    if not any(record.device_seconds or record.peak for record in timed):
        return None
    header = ["strategy", "rows x hidden", "median", "device time", "bytes/s", "/ copy", "peak memory"]
    rows = []
    for record in sorted(timed, key=lambda record: (_size(record.scale), _place(record))):
        row = [record.strategy, _scale(record.scale), _si(record.median, "s")]
        row += [
            _si(value, unit) if value else _NONE
            for value, unit in ((record.device_seconds, "s"), (record.bandwidth, "B"))
        ]
        row += [_figures(record.of_copy) if record.of_copy else _NONE, _si(record.peak, "B") if record.peak else _NONE]
        rows.append(row)
    return _markdown(header, rows, 2)


def crossovers(sizes: Sequence[float], cpu: Sequence[float], cuda: Sequence[float]) -> list[tuple[float, float, int]]:
    """Find where two measured curves cross, each taken as straight between neighbours on logarithmic axes.

    A curve that only touches the other does not cross it, and nothing is claimed beyond the sizes measured.

    Args:
        sizes: Where both were measured, ascending.
        cpu: Seconds per step there.
        cuda: Seconds per step there.

    Returns:
        For each crossing its size, its time, and the place in ``sizes`` of the measurement before it.
    """
    differences = [math.log2(a) - math.log2(b) for a, b in zip(cpu, cuda, strict=True)]
    apart = [i for i, difference in enumerate(differences) if difference]
    found = []
    for i, j in pairwise(apart):
        if (differences[i] > 0) == (differences[j] > 0):
            continue
        share = differences[i] / (differences[i] - differences[i + 1])
        size, time = (
            2 ** (math.log2(values[i]) + share * (math.log2(values[i + 1]) - math.log2(values[i])))
            for values in (sizes, cpu)
        )
        found.append((size, time, i))
    return found


def _curves(run: Run) -> dict[str, dict[str, list[Record]]]:
    """Return the curves to draw, ascending in size: eager, and the fastest strategy at each size, by device."""
    timed = [record for record in run.steps() if record.strategy in STRATEGIES and record.flops > 0]
    curves: dict[str, dict[str, list[Record]]] = {"eager": {}, "fastest strategy": {}}
    for device in DEVICES:
        here = [record for record in timed if record.device == device]
        fastest: dict[Scale, Record] = {}
        for record in sorted(here, key=lambda record: -record.median):
            fastest[record.scale] = record
        eager = [record for record in here if record.strategy == "eager"]
        for name, records in (("eager", eager), ("fastest strategy", [*fastest.values()])):
            if records:
                curves[name][device] = sorted(records, key=lambda record: record.flops)
    if curves["eager"] == curves["fastest strategy"]:
        del curves["fastest strategy"]
    return curves


def _missing(curves: dict[str, dict[str, list[Record]]]) -> list[str]:
    return [name for device, name in DEVICES.items() if not any(device in each for each in curves.values())]


def _common(curves: dict[str, list[Record]]) -> list[tuple[Record, Record]]:
    """Pair the records of the CPU's curve with those of CUDA's at the same scale."""
    cuda = {record.scale: record for record in curves.get("cuda", [])}
    return [(record, cuda[record.scale]) for record in curves.get("cpu", []) if record.scale in cuda]


def _crossings(pairs: Sequence[tuple[Record, Record]]) -> list[tuple[float, float, int]]:
    sizes = [cpu.flops for cpu, _ in pairs]
    return crossovers(sizes, [cpu.median for cpu, _ in pairs], [cuda.median for _, cuda in pairs])


def verdicts(run: Run) -> list[str]:
    """Say, a line for each curve, which device is faster where."""
    curves = _curves(run)
    if missing := _missing(curves):
        return [
            f"{run.label}: there is no step of SimpleNet on {' or '.join(missing)} in this file, so nothing crosses."
        ]
    lines = []
    for name, each in curves.items():
        pairs = _common(each)
        crossings = _crossings(pairs)
        for size, _, i in crossings:
            winner = "CUDA" if pairs[i][0].median < pairs[i][1].median else "CPU"
            between = " and ".join(_scale(pairs[j][0].scale) for j in (i, i + 1))
            lines.append(f"{run.label}, {name}: {winner} is faster from {_si(size, 'FLOP')} a step, between {between}.")
        if not pairs:
            lines.append(f"{run.label}, {name}: no size was timed on both CPU and CUDA.")
        if crossings or not pairs:
            continue
        # Without a crossover, one of the two is nowhere faster.
        for device, wins in (
            ("CPU", sum(cpu.median < cuda.median for cpu, cuda in pairs)),
            ("CUDA", sum(cuda.median < cpu.median for cpu, cuda in pairs)),
        ):
            if wins:
                lines.append(f"{run.label}, {name}: {device} is faster at {wins} of {len(pairs)} sizes timed on both.")
        overlaps = sum(max(a.quartiles[0], b.quartiles[0]) <= min(a.quartiles[1], b.quartiles[1]) for a, b in pairs)
        if overlaps:
            lines.append(
                f"{run.label}, {name}: the quartiles overlap at {overlaps} of {len(pairs)} sizes timed on both."
            )
    return lines


def _canvas(columns: int, width: float, height: float) -> "tuple[Figure, list[Axes]]":
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, list(figure.subplots(1, columns, sharex=True, sharey=True, squeeze=False)[0])


_COLOURS = {"cpu": "tab:blue", "cuda": "tab:orange"}
_MARKERS = "os^Dv<>ph*"


def _note(axes: "Axes", text: str, point: tuple[float, float], offset: tuple[float, float]) -> None:
    """Write beside a point, legibly over the lines there."""
    paper = {"boxstyle": "square,pad=0.1", "facecolor": "white", "edgecolor": "none", "alpha": 0.8}
    axes.annotate(text, point, offset, textcoords="offset points", ha="center", va="center", fontsize=8, bbox=paper)


def _label(axis: "Axis", unit: str) -> None:
    """Label a logarithmic axis in units of the International System, and between the powers of ten if it spans few."""
    from matplotlib.ticker import EngFormatter, LogLocator

    axis.set_major_formatter(EngFormatter(unit))
    low, high = axis.get_view_interval()
    if high < 30 * low:
        axis.set_minor_formatter(EngFormatter(unit))
    if 2 * low < high < 30 * low:  # where a label at each would touch the next
        axis.set_minor_locator(LogLocator(subs=(2, 5)))


def _legend(figure: "Figure") -> None:
    """Name what is drawn once for all panels, beneath them, where it hides nothing."""
    named: dict[str, Any] = {}
    for axes in figure.axes:
        handles, labels = axes.get_legend_handles_labels()
        named |= dict(zip(labels, handles, strict=True))
    figure.legend(named.values(), named.keys(), loc="outside lower center", ncols=2, frameon=False)


def plot_sizes(runs: Sequence[Run]) -> "Figure":
    """Draw time per step against size, a panel for each run, with the crossovers of CPU and CUDA marked."""
    figure, panels = _canvas(len(runs), 2 + 5 * len(runs), 5.8)
    for axes, run in zip(panels, runs, strict=True):
        curves = _curves(run)
        sizes: dict[float, str] = {}
        for name, each in curves.items():
            style = "o-" if name == "eager" else "s--"
            for device, records in each.items():
                x = [record.flops for record in records]
                sizes |= {record.flops: _scale(record.scale) for record in records}
                label = f"{DEVICES[device]}, {name}"
                axes.plot(x, [record.median for record in records], style, color=_COLOURS[device], label=label, ms=5)
                low, high = zip(*(record.quartiles for record in records), strict=True)
                axes.fill_between(x, low, high, color=_COLOURS[device], alpha=0.2, linewidth=0)
            for size, time, _ in _crossings(_common(each)):
                axes.plot(size, time, "kX", ms=9, zorder=3, linestyle="none", label="crossover, interpolated")
                _note(axes, _si(size, "FLOP"), (size, time), (-22, 14))
        axes.set(xscale="log", yscale="log", xlabel="floating-point operations a step (top: rows x hidden)")
        absent = [f"no step on {name} in this file" for name in _missing(curves)]
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
    return min(counts, key=lambda scale: (-counts[scale], _size(scale)))


def plot_strategies(runs: Sequence[Run], scale: Scale) -> "Figure":
    """Draw the time per step of every strategy and peer at one scale, a line each, the runs beneath each other."""
    timed = [[record for record in run.steps() if record.scale == scale] for run in runs]
    drawn = sorted((record for records in timed for record in records), key=_place)
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
            _note(axes, _si(record.median, "s"), (max(record.median, *record.quartiles), y), (28, -0.5))
        if len(runs) > 1:
            axes.plot([], [], marker, color="gray", label=run.label)
        eager = [record for record in records if (record.strategy, record.device) == ("eager", "cpu")]
        if not i and eager:
            axes.axvline(eager[0].median, color="gray", linewidth=1, linestyle=":", label=f"eager on CPU, {run.label}")
    labels = [f"{strategy}, {DEVICES[device]}" for strategy, device in order]
    axes.set(xscale="log", xlabel="time a step (median; bar: quartiles)", yticks=range(len(order)), yticklabels=labels)
    axes.set(ylim=(len(order) - 0.5, -0.5), title=f"one step at {_scale(scale)} (rows x hidden)")
    axes.margins(x=0.12)
    _label(axes.xaxis, "s")
    axes.grid(visible=True, axis="x", alpha=0.3)
    _legend(figure)
    return figure


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
        yield f"No benchmark is in the group '{_PLOTTED}', so there is nothing to plot."
        return
    scale = scale or common_scale(runs)
    if scale not in scales:
        here = ", ".join(_scale(one) for one in sorted(scales, key=_size))
        raise ValueError(f"--scale is {_scale(scale)}, but should be one of those timed: {here}")
    directory.mkdir(parents=True, exist_ok=True)
    sizes, strategies = directory / "sizes.png", directory / "strategies.png"
    plot_sizes(runs).savefig(sizes, dpi=120)
    yield f"![Time a step against size]({sizes})\n"
    yield from (f"- {verdict}" for run in runs for verdict in verdicts(run))
    plot_strategies(runs, scale).savefig(strategies, dpi=120)
    yield f"\n![The strategies side by side]({strategies})"


def _report(runs: Sequence[Run], pictures: Iterable[str]) -> Iterator[str]:
    yield f"{_origins(runs)}\n"
    yield from (f"> **Warning:** {caution}\n" for caution in cautions(runs))
    yield "Times are of one step, or of one call where a benchmark has no steps; a ratio below 1 is faster."
    groups = dict.fromkeys(record.group for run in runs for record in run.records.values())
    for group in sorted(groups, key=lambda group: (group != _PLOTTED, group)):
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
@click.option("--plots", type=click.Path(file_okay=False, path_type=Path), default=".", help="Where the plots go.")
@click.option("--scale", type=_Size(), help="Where the strategies are plotted.  [default: where most were timed]")
def main(files: tuple[Path, ...], plots: Path, scale: Scale | None) -> None:
    """Print recorded benchmarks as a Markdown table, and write two plots.

    The plots are sizes.png, the time of a step against its size on CPU and CUDA, and strategies.png,
    the strategies side by side. Of several files, each is compared with the first; a warning says when
    it should not be.

    Exit status: 0, or 2 on bad usage and for a file that is no record of this suite.
    """
    if find_spec("matplotlib") is None:
        raise click.UsageError('the plots need matplotlib, which is not installed: pip install "simplenet[plot]"')
    try:
        runs = read_all(files)
        lines = list(_report(runs, list(_write(runs, plots, scale))))
    except (OSError, ValueError) as error:
        raise _BadInput(str(error)) from error
    click.echo("\n".join(lines))


if __name__ == "__main__":
    main(prog_name="python -m benchmarks.report")
