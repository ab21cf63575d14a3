"""docs/conformance.md and docs/conformance.png, from the records in docs/conformance."""

from pathlib import Path

from tests.conformance import CONTROL, FORMAT, RECORDS, Row, adams, deviations, environments, found_in, reproduction
from tests.environments.page import head, read, row, stamp

PAGE, PICTURE = RECORDS.with_suffix(".md"), RECORDS.with_suffix(".png")
SHAPES = {"float32": "o", "float64": "s", "bfloat16": "^", "float16": "v"}
DTYPES = tuple(SHAPES)
MARKS = {"not applicable": "", "holds": "●", "known torch defect": "t", "FAILS": "✗"}  # the worst comes last
CLASSES = {
    "documented variant": "the package's documentation, or the paper that it cites, describes it",
    "undocumented deviation": "it differs from the paper or from torch's interface, and its documentation is silent",
    "bug": "it differs from its own documentation, or destroys data",
}


def gather(directory: Path = RECORDS) -> dict[str, Row]:
    """Read the records of the environments that the catalogue names, in its order.

    Raises:
        ValueError: If a file is not a record.
    """
    paths = {name: directory / f"{name}.json" for name in environments()}
    return {name: read(path, FORMAT, "python -m tests.conformance") for name, path in paths.items() if path.exists()}


def version_of(records: dict[str, Row], environment: Row) -> str:
    """Return the packages of an environment and their versions, without local version labels."""
    packages = records[environment["name"]]["packages"]
    return ", ".join(f"{name} {number.partition('+')[0]}" for name, number in packages.items())


def variant_of(found: Row) -> str:
    """Describe the variant, for a cell of a table."""
    variant = found["variant"]
    if not variant:
        return (found["described"] or "takes no steps").partition(", is ")[0]
    parts = [f"ε {variant['epsilon']}"]
    parts += [f"{variant['correction']} corrected"] if variant["correction"] != "both" else []
    parts += [f"{variant['decay']}"] if variant["decay"] else []
    parts += [f"AMSGrad: {variant['amsgrad']}"] if variant["amsgrad"] else []
    parts += ["corrections in float32"] if variant["scalars"] == "float32" else []
    return "; ".join(parts) + (f" (cannot be told apart: {found['undecided']})" if found["undecided"] else "")


def accuracy_of(found: Row, dtype: str) -> str:
    """Return the largest error of a step in units of lr, for a cell; in bold if it exceeds its bound."""
    if dtype not in found["accuracy"]:
        return "-"
    errors = found["accuracy"][dtype]
    text = f"{float(errors['of lr']):.1e}"
    return f"**{text}**" if not float(errors["of bound"]) <= 1 else text


def time_of(found: Row, size: str, unit: float) -> str:
    """Return a median time in the given unit, for a cell."""
    return f"{found['times'][size]['median'] / unit:,.3g}" if size in found["times"] else "-"


def counts(found: Row) -> list[int]:
    """Count the checks that hold, that fail, and that fail as torch's own class does."""
    statuses = [status for status, _ in found["results"].values()]
    return [statuses.count(status) for status in ("holds", "FAILS", "known torch defect")]


def properties(found: Row) -> dict[str, str]:
    """Return a mark for each property, the worst of its types."""
    marks: dict[str, str] = {}
    order = list(MARKS)
    for check, (status, _) in found["results"].items():
        name, _, dtype = check.rpartition(", ")
        name = name if dtype in DTYPES else check
        marks[name] = max(status, marks.get(name, status), key=order.index)
    return {name: MARKS[status] for name, status in marks.items()}


def _faults(records: dict[str, Row]) -> list[str]:
    tried = [
        (adam["environment"], name, found)
        for name, adam in adams().items()
        if (found := records.get(adam["environment"]["name"], {}).get("faults", {}).get(name))
    ]
    packages = {environment["name"] for environment, *_ in tried}
    named = sum(not found["missing"] for *_, found in tried)
    lines = [*FAULTS.format(named=named, n=len(tried), packages=len(packages)).splitlines(), ""]
    lines += head("fault", "implementation", "version", "report")
    for environment, name, found in tried:
        report = "; ".join(found["missing"]) or found["report"][0]
        lines.append(row(found["fault"], name, version_of(records, environment), report))
    return lines


def _deviations(records: dict[str, Row]) -> list[str]:
    lines, known = [], adams()
    for one in deviations():
        of = {known[name]["environment"]["name"]: known[name]["environment"] for name in one["adams"]}
        where = [version_of(records, environment) for name, environment in of.items() if name in records]
        error = f" · `{one['error']}`" if "error" in one else ""
        lines += ["", f"### {one['title']}", "", f"`{one['id']}` · **{one['class']}** · {'; '.join(where)}{error}", ""]
        lines += [one["note"].strip(), "", "In " + ", ".join(one["adams"]) + ". "]
        if "checks" in one:
            lines[-1] += "Fails: " + "; ".join(f"*{check}*" for check in one["checks"]) + "."
        lines += ["", "```python", reproduction(one, known[one["adams"][0]]).strip(), "```"]
    return lines


INTRO = """# Which Adam is it?

{n} implementations in {frameworks} frameworks. Each package is installed in its own environment and checked as a black
box, as by `simplenet check adam`: only parameters and gradients are used. `python -m tests.conformance` writes this
page and its plot from the records in [docs/conformance](conformance/), which its commands `check`, `reproduce`,
`faults` and `time` write. [catalogue.toml](../tests/conformance/catalogue.toml) lists the implementations, and
[deviations.toml](../tests/conformance/deviations.toml) the known deviations from the published Adam; the command fails
if the results differ from these.

Checked on {machines}; timed {timed}.

![the largest error of a step, by type, and the time of a step, by implementation](conformance.png)

## Variant, accuracy, time

*Documented* is the variant according to the package; *found* is the published variant whose steps it takes, to within
counted rounding errors, with hyper-parameters for which all variants differ. ε is *outside* the root (Algorithm 1),
*before the correction* (the remark at the end of §2 of the paper), *inside the root* or *as a clamp*. Both moments are
corrected for bias, in Python's float64, unless the cell says otherwise. The last parts are weight decay and AMSGrad.

The next four columns are the accuracy: the largest error of a step from 0, in units of lr, over a few hundred steps. It
is **bold** if it exceeds its bound, and - if the implementation does not take the type. Adapters for other frameworks
pass NumPy arrays, which have no bfloat16. The times are medians of single steps after warm-up, in float32, with one
thread if the framework allows it: for 17 parameters in four tensors, and for 10⁶ in one; - if not measured. JAX's steps
are compiled, and no time includes the conversion between frameworks. Other load on the processor lengthens the times,
above all those of 10⁶ parameters: see the quartiles in the plot. *Holds* and *fails* are numbers of checks; *as torch*
is the number of checks that fail as they do for torch's own class: see [defects.md](defects.md).
"""
LOW_BIT = """
Low-bit optimizers round the state between steps, but not the update. So the first step, whose state is 0, must be
within its bound; the error of the next nine steps is due to the rounding. For 65,536 parameters:
"""
PROPERTIES = """
## Properties

● holds, in every type; ✗ fails, in at least one type; t fails as it does for torch's own class; blank is not
applicable: the implementation does not have the option, or its framework does not have torch's interface. Negative
controls, which are not Adam, are in italics.
"""
DEVIATIONS = """
## Deviations

Each has a reproduction that runs in the package's environment and raises an `AssertionError`, or the error named next
to its id. The command fails if a deviation no longer occurs. Checks that a negative control fails are not listed.
"""
FAULTS = """
## Faults planted in copies

Do the checks find faults in code of other projects? `python -m tests.conformance faults` changes one line in an
installed copy of a package, listed in [faults.toml](../tests/conformance/faults.toml). The report must name the fault:
by a failed assertion of a check that holds without it, or by another variant. It names {named} of {n} faults, in
{packages} packages:
"""


def page(records: dict[str, Row]) -> str:
    """Render the records as tables."""
    every = list(found_in(records))
    made = [record[f"{what} made"] for what in ("checks", "times") for record in records.values() if what in record]
    machines = ["{processor}, torch {torch}, Python {python}".format(**one) for one in made]
    runs = [record["times made"] for record in records.values() if "times" in record]
    timed = sorted({run["at"] for run in runs})
    loads = sorted({run["load"] for run in runs}, key=lambda load: int(load.partition(" ")[0]))
    names = list(dict.fromkeys(name for _, _, found in every for name in properties(found)))
    text = INTRO.format(
        n=len(every),
        frameworks=len({adam["environment"]["framework"] for _, adam, _ in every}),
        machines="; ".join(dict.fromkeys(machines)),
        timed=(f"in one run, {timed[0]}" if len(timed) == 1 else f"in {len(timed)} runs, which may not compare")
        + (f", at a load average of {' to '.join(dict.fromkeys((loads[0], loads[-1])))}" if loads else ""),
    )
    columns = ("17, µs", "10⁶, ms", "holds", "fails", "as torch")
    lines = [*text.splitlines(), ""]
    lines += head("implementation", "version", "documented", "found", *DTYPES, *columns, right=9)
    for name, adam, found in every:
        documented = adam["documented"] + (f" ({adam['kind']})" if "kind" in adam else "")
        cells = [name, version_of(records, adam["environment"]), documented, variant_of(found)]
        cells += [accuracy_of(found, dtype) for dtype in DTYPES]
        lines.append(row(*cells, time_of(found, "17", 1e-6), time_of(found, "1000000", 1e-3), *counts(found)))
    lines += [*LOW_BIT.splitlines(), ""]
    lines += head("implementation", "first step, of its bound", "steps 2 to 10, of lr", right=2)
    for name, _, found in every:
        if found["quantized"]:
            lines.append(row(name, *(f"{float(value):.2g}" for value in found["quantized"].values())))
    lines += [*PROPERTIES.splitlines(), "", *(f"{i}. {name}" for i, name in enumerate(names, 1)), ""]
    lines += [row("implementation", *range(1, len(names) + 1)), row("---", *(":-:" for _ in names))]
    for name, adam, found in every:
        marks = properties(found)
        lines.append(row(f"*{name}*" if adam.get("kind") == CONTROL else name, *(marks.get(one, "") for one in names)))
    lines += _faults(records)
    lines += [*DEVIATIONS.splitlines(), ""]
    for name, meaning in CLASSES.items():
        lines.append(f"- **{name}** ({sum(one['class'] == name for one in deviations())}): {meaning}.")
    return "\n".join([*lines, *_deviations(records)]) + "\n"


def plot(records: dict[str, Row], path: Path) -> None:
    """Plot the largest error of a step in each type, and the time of a step, for each implementation.

    Raises:
        OSError: If the file cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    every = list(found_in(records))
    frameworks = list(dict.fromkeys(adam["environment"]["framework"] for _, adam, _ in every))
    figure = Figure(figsize=(10, 1.5 + 0.22 * len(every)), layout="constrained")
    FigureCanvasAgg(figure)
    error_axes, time_axes = figure.subplots(1, 2, sharey=True)
    for y, (_, adam, found) in enumerate(every):
        colour = f"C{frameworks.index(adam['environment']['framework'])}"
        for dtype, errors in found["accuracy"].items():
            look = {"color": colour, "markersize": 5, "linestyle": "none", "marker": SHAPES[dtype]}
            filled = colour if float(errors["of bound"]) <= 1 else "none"
            error_axes.plot(float(errors["of lr"]), y, markerfacecolor=filled, **look)
        for size, shape in (("17", "v"), ("1000000", "^")):
            if size in found["times"]:
                time = found["times"][size]
                time_axes.plot([time["q1"], time["q3"]], [y, y], "-", color=colour, linewidth=1)
                time_axes.plot(time["median"], y, shape, color=colour, markersize=4)
    for dtype, shape in SHAPES.items():
        error_axes.plot([], [], shape, color="gray", label=dtype, markersize=5)
    error_axes.plot([], [], "o", color="gray", markerfacecolor="none", label="hollow: exceeds its bound")
    for i, name in enumerate(frameworks):
        time_axes.plot([], [], "-", color=f"C{i}", label=name, linewidth=3)
    for shape, label in (("v", "17 parameters"), ("^", "10⁶ parameters")):
        time_axes.plot([], [], shape, color="gray", markersize=4, label=label)
    error_axes.set(xscale="log", xlabel="largest error of a step, in units of lr", title="Accuracy")
    error_axes.set_yticks(range(len(every)), [name for name, _, _ in every], fontsize=8)
    error_axes.set_ylim(len(every) - 0.3, -0.7)
    time_axes.set(xscale="log", xlabel="seconds, median and quartiles", title="Time of a step")
    for axes in (error_axes, time_axes):
        axes.grid(visible=True, alpha=0.3)
        axes.legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.06), ncols=2)
    figure.savefig(path, dpi=100, metadata={"Description": stamp("conformance", page(records))})
