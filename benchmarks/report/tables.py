"""Tables in Markdown, and numbers with three significant digits."""

import math
from collections import Counter
from collections.abc import Sequence

from benchmarks.report.records import DEVICES, STRATEGIES, SUBJECTS, UNKNOWN, Record, Run, Scale

NONE = "-"  # an empty cell


def figures(value: float) -> str:
    """Write three significant digits, and no exponent."""
    value = float(f"{value:.3g}")
    return f"{value:,.{max(0, 2 - math.floor(math.log10(value)))}f}" if value else "0"


def si(value: float, unit: str) -> str:
    """Write three significant digits with an SI prefix."""
    value = float(f"{value:.3g}")
    prefixes = {-3: "n", -2: "µ", -1: "m", 0: "", 1: "k", 2: "M", 3: "G", 4: "T"}
    power = min(max(math.floor(math.log10(value) / 3), min(prefixes)), max(prefixes)) if value else 0
    return f"{figures(value / 1000**power)} {prefixes[power]}{unit}"


def scale_name(scale: Scale) -> str:
    """Write rows and hidden units with an x between them."""
    return NONE if scale == (None, None) else "x".join(NONE if side is None else str(side) for side in scale)


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]], text_columns: int) -> str:
    """Return a table, with the first columns aligned left and the others right."""
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


def origins(runs: Sequence[Run]) -> str:
    names = (*SUBJECTS, "threads", "tf32", "commit")
    rows = []
    for run in runs:
        records = sorted(run.records.values(), key=lambda record: record.device)  # the CPU before the GPU
        found = [dict.fromkeys(record.facts[name] for record in records) for name in names]
        rows.append([run.label, *(", ".join(value for value in each if value != UNKNOWN) or NONE for each in found)])
    return markdown(["run", *names], rows, 1 + len(names))


def size_of(scale: Scale) -> tuple[int, Scale]:
    """Order scales by the size of the hidden layer's output."""
    rows, hidden = (side or 0 for side in scale)
    return rows * hidden, (rows, hidden)


def by_strategy(record: Record) -> tuple[int, str, str, str]:
    """Sort key: strategies in the order of benchmarks.steps, then peers; within each, by device."""
    ours = STRATEGIES.index(record.strategy) if record.strategy in STRATEGIES else len(STRATEGIES)
    return ours, record.strategy, record.device, record.name


def table(runs: Sequence[Run], group: str) -> str:
    """Return the table of a group: a row for each benchmark, by size and then by strategy; columns for each run.

    A benchmark that a run lacks has dashes in its columns. Ratios are of times: less than 1 is faster.
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
    for key, record in sorted(found.items(), key=lambda item: (size_of(item[1].scale), by_strategy(item[1]))):
        ambiguous = names[record.strategy, record.device, record.scale] > 1
        row = [f"{record.strategy} ({record.name})" if ambiguous else record.strategy]
        row += [DEVICES[record.device], scale_name(record.scale)]
        reference = runs[0].records.get(key)
        for i, run in enumerate(runs):
            own = run.records.get(key)
            base = run.baseline(own) if own else None
            row += [si(own.median, "s"), si(own.iqr, "s")] if own else [NONE, NONE]
            row += [figures(own.median / base.median) if own and base else NONE]
            if i:
                row += [figures(own.median / reference.median) if own and reference else NONE]
        rows.append(row)
    return markdown(header, rows, text_columns)


def device_table(run: Run, group: str) -> str | None:
    """Return the table of a group's device times and peak memory on CUDA, or ``None`` if none was recorded."""
    timed = [record for record in run.records.values() if record.group == group and record.device == "cuda"]
    if not any(record.device_seconds or record.peak for record in timed):
        return None
    header = ["strategy", "rows x hidden", "median", "device time", "bytes/s", "/ copy", "peak memory"]
    rows = []
    for record in sorted(timed, key=lambda record: (size_of(record.scale), by_strategy(record))):
        row = [record.strategy, scale_name(record.scale), si(record.median, "s")]
        row += [
            si(value, unit) if value else NONE
            for value, unit in ((record.device_seconds, "s"), (record.bandwidth, "B"))
        ]
        row += [figures(record.of_copy) if record.of_copy else NONE, si(record.peak, "B") if record.peak else NONE]
        rows.append(row)
    return markdown(header, rows, 2)
