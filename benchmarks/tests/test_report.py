"""The report of the benchmarks: its numbers, its warnings, and its crossovers of curves."""

import json
import sys
from itertools import pairwise
from pathlib import Path

import pytest
import pytest_benchmark.cli
from click.testing import CliRunner
from hypothesis import example, given
from hypothesis import strategies as st

from benchmarks import steps
from benchmarks.report import __main__ as command
from benchmarks.report.comparison import crossovers, verdicts
from benchmarks.report.plots import common_scale, plot_sizes, plot_strategies
from benchmarks.report.records import STRATEGIES, read_all
from benchmarks.test_training_step import KINDS

MICROSECOND = 1e-6


def benchmark(median, strategy="eager", **changes):
    """Return an entry as pytest-benchmark 5 writes it; ``median`` is that of a timed call, in seconds."""
    group = changes.pop("group", "training step")
    options = {"disable_gc": False, "timer": "perf_counter", "warmup": False}
    options |= {name: changes.pop(name) for name in options.keys() & changes}
    rows, hidden = changes.get("rows", 4), changes.get("hidden", 4)
    extra = {
        "device": "cpu",
        "processor": "Abacus 9",
        "threads": 1,
        "torch": "2.13.0",
        "lightning": "2.6.6",
        "python": "3.11.7",
        "strategy": strategy,
        "rows": rows,
        "hidden": hidden,
        "parameters": 17,
        "steps": 1,
        "flops_per_step": rows and rows * hidden * 16,
        "bytes_per_step": None,
        "samples_per_second": None,
        "flops_per_second": None,
        "fraction_of_matmul": None,
        "tf32": None,
        "peak_memory_bytes": None,
        "commit": "c0ffee",
        "device_seconds_per_step": None,
    } | changes
    name = changes.pop("name", f"test_step[{extra['device']}-{strategy}-{rows}-{hidden}]")
    stats = {"min": median, "max": median, "mean": median, "stddev": 0.0, "rounds": 9, "iterations": 1}
    stats |= {"median": median, "iqr": median / 4, "q1": median * 7 / 8, "q3": median * 9 / 8, "ops": 1 / median}
    stats |= {"total": 9 * median, "iqr_outliers": 0, "stddev_outliers": 0, "outliers": "0;0"}
    stats |= {"ld15iqr": median, "hd15iqr": median}
    return {
        "group": group,
        "name": name,
        "fullname": f"benchmarks/test_clock.py::{name}",
        "params": None,
        "param": None,
        "extra_info": extra,
        "options": options,
        "stats": stats,
    }


def document(*benchmarks, dirty=False):
    return {
        "machine_info": {"node": "here", "cpu": {}},
        "commit_info": {"id": "f00d", "dirty": dirty},
        "benchmarks": list(benchmarks),
        "datetime": "2026-01-01T00:00:00+00:00",
        "version": "5.3.1",
    }


def written(directory, documents):
    """Write documents as A.json, B.json, ... and return their paths."""
    paths = [directory / f"{letter}.json" for letter, _ in zip("ABC", documents, strict=False)]
    for path, content in zip(paths, documents, strict=True):
        path.write_text(content if isinstance(content, str) else json.dumps(content))
    return paths


@pytest.fixture
def reported(tmp_path, monkeypatch):
    """Report on documents in an empty directory."""
    monkeypatch.chdir(tmp_path)

    def run(*documents, options=()):
        names = [path.name for path in written(tmp_path, documents)]
        return CliRunner().invoke(command.main, [*names, *options])

    return run


@pytest.fixture
def tables(reported, monkeypatch):
    """Report without plots, and return the groups' rows as mappings from column to cell."""
    monkeypatch.setattr(command, "_write", lambda *_: [])

    def run(*documents):
        result = reported(*documents)
        assert result.exit_code == 0, result.output
        found = {}
        for section in result.output.split("### ")[1:]:
            group, _, text = section.partition("\n\n")
            header, _, *rows = (
                [cell.strip() for cell in line.strip("|").split("|")] for line in text.strip().splitlines()
            )
            found[group] = [dict(zip(header, row, strict=True)) for row in rows]
        return found

    return run


@pytest.fixture
def cautions(reported, monkeypatch):
    monkeypatch.setattr(command, "_write", lambda *_: [])

    def run(*documents):
        result = reported(*documents)
        assert result.exit_code == 0, result.output
        prefix = "> **Warning:** "
        return [line.removeprefix(prefix) for line in result.output.splitlines() if line.startswith(prefix)]

    return run


def test_times_are_divided_by_the_steps_of_a_call(tables):
    """1,000 steps took 8 ms, with 2 ms between the quartiles; eager's one took 800 µs."""
    rows = tables(document(benchmark(800e-6), benchmark(8e-3, "compiled-chunk", steps=1000)))["training step"]

    assert rows == [
        {
            "strategy": "eager",
            "device": "CPU",
            "rows x hidden": "4x4",
            "median": "800 µs",
            "IQR": "200 µs",
            "/ eager on CPU": "1.00",
        },
        {
            "strategy": "compiled-chunk",
            "device": "CPU",
            "rows x hidden": "4x4",
            "median": "8.00 µs",
            "IQR": "2.00 µs",
            "/ eager on CPU": "0.0100",
        },
    ]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (1e-9, "1.00 ns"),
        (25e-12, "0.0250 ns"),
        (999.4e-9, "999 ns"),
        (999.6e-9, "1.00 µs"),
        (12.345e-6, "12.3 µs"),
        (1.0, "1.00 s"),
        (4321.0, "4.32 ks"),
    ],
)
def test_a_time_has_three_digits_and_a_suitable_unit(tables, seconds, text):
    ((row,),) = tables(document(benchmark(seconds))).values()

    assert row["median"] == text


def test_a_ratio_is_to_eager_on_the_cpu_at_the_same_scale_in_the_same_group(tables):
    found = tables(
        document(
            benchmark(100e-6),
            benchmark(400e-6, rows=64),
            benchmark(10e-6, group="forward"),
            benchmark(200e-6, device="cuda", processor="Loom"),
            benchmark(200e-6, "fused", rows=64),
            benchmark(20e-6, "compiled", group="forward"),
            benchmark(1e-6, "numpy", rows=128),
            benchmark(3.0, "import simplenet", group="start-up", rows=None, hidden=None, steps=None),
        )
    )

    ratios = {(r["strategy"], r["device"], r["rows x hidden"]): r["/ eager on CPU"] for r in found["training step"]}
    assert ratios == {
        ("eager", "CPU", "4x4"): "1.00",
        ("eager", "CUDA", "4x4"): "2.00",
        ("eager", "CPU", "64x4"): "1.00",
        ("fused", "CPU", "64x4"): "0.500",
        ("numpy", "CPU", "128x4"): "-",
    }
    assert [row["/ eager on CPU"] for row in found["forward"]] == ["1.00", "2.00"]
    assert [(row["rows x hidden"], row["median"], row["/ eager on CPU"]) for row in found["start-up"]] == [
        ("-", "3.00 s", "-")
    ]


def test_no_ratio_is_computed_if_its_base_is_ambiguous(tables):
    rows = tables(
        document(benchmark(1.0, name="per step"), benchmark(2.0, name="per epoch"), benchmark(3.0, "numpy", name="n"))
    )["training step"]

    assert [row["strategy"] for row in rows] == ["eager (per epoch)", "eager (per step)", "numpy"]
    assert [row["/ eager on CPU"] for row in rows] == ["-", "-", "-"]


def test_rows_are_ordered_by_size_and_strategy_and_never_by_time(tables):
    """In pytest-benchmark's file they are sorted by time."""
    strategies = ["jax-scan", "numpy", "fused", "eager"]

    rows = tables(
        document(
            *(benchmark(1 + i, name, rows=n) for n in (64, 4) for i, name in enumerate(strategies)),
            benchmark(9.0, device="cuda"),
        )
    )["training step"]

    ordered = ["eager", "fused", "jax-scan", "numpy"]
    assert [(row["rows x hidden"], row["strategy"], row["device"]) for row in rows] == [
        ("4x4", "eager", "CPU"),
        ("4x4", "eager", "CUDA"),
        *(("4x4", name, "CPU") for name in ordered[1:]),
        *(("64x4", name, "CPU") for name in ordered),
    ]


def test_the_device_time_and_memory_are_shown_next_to_wall_time(tables):
    """In a separate table for CUDA; the bytes are those that a step has to move."""
    own = {
        "device_seconds_per_step": 2e-6,
        "peak_memory_bytes": 4096,
        "bytes_per_second": 3e9,
        "fraction_of_copy": 0.25,
    }
    cuda = benchmark(7 * MICROSECOND, device="cuda", **own)
    peer = benchmark(9 * MICROSECOND, "jax-jit", device="cuda", bytes_per_second=1e9, fraction_of_copy=0.0833)

    found = tables(document(benchmark(5 * MICROSECOND), cuda, peer))

    assert list(found) == ["training step", "training step, on the GPU of A"]
    assert [list(row.values()) for row in found["training step, on the GPU of A"]] == [
        ["eager", "4x4", "7.00 µs", "2.00 µs", "3.00 GB", "0.250", "4.10 kB"],
        ["jax-jit", "4x4", "9.00 µs", "-", "1.00 GB", "0.0833", "-"],
    ]
    assert list(tables(document(benchmark(5 * MICROSECOND)))) == ["training step"]


def test_the_training_step_comes_first(tables):
    groups = ["checkpoint", "training step", "forward"]

    assert list(tables(document(*(benchmark(1.0, group=group) for group in groups)))) == [
        "training step",
        "checkpoint",
        "forward",
    ]


def test_a_step_slowed_down_by_half_is_reported_as_slower_by_half(tables):
    """And only that step."""
    before = document(benchmark(100e-6), benchmark(50e-6, "fused"))
    after = document(benchmark(100e-6), benchmark(75e-6, "fused"))

    rows = tables(before, after)["training step"]

    assert [row["B / A"] for row in rows] == ["1.00", "1.50"]
    assert [row["A: / eager on CPU"] for row in rows] == ["1.00", "0.500"]
    assert [row["B: / eager on CPU"] for row in rows] == ["1.00", "0.750"]


def test_a_value_missing_from_one_file_is_shown_as_a_dash(tables):
    a = document(benchmark(100e-6), benchmark(10e-6, device="cuda", processor="Loom"))
    b = document(benchmark(200e-6), benchmark(30e-6, "fused"))

    rows = tables(a, b)["training step"]

    assert [(r["strategy"], r["device"], r["A: median"], r["B: median"], r["B / A"]) for r in rows] == [
        ("eager", "CPU", "100 µs", "200 µs", "2.00"),
        ("eager", "CUDA", "10.0 µs", "-", "-"),
        ("fused", "CPU", "-", "30.0 µs", "-"),
    ]


def test_a_pipe_character_in_a_name_does_not_split_a_table_cell(reported):
    assert "| a\\|b " in reported(document(benchmark(1.0, "a|b"))).output


def test_several_files_are_each_compared_with_the_first(tables):
    (row,) = tables(*(document(benchmark(seconds)) for seconds in (2.0, 1.0, 4.0)))["training step"]

    assert (row["B / A"], row["C / A"]) == ("0.500", "2.00")


def test_files_with_the_same_name_are_shown_by_their_paths(tmp_path):
    paths = [tmp_path / directory / "run.json" for directory in "ab"]
    for path in paths:
        path.parent.mkdir()
        path.write_text(json.dumps(document(benchmark(1.0))))

    assert [run.label for run in read_all(paths)] == [str(path) for path in paths]


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"threads": 2}, "threads is 1 in A, but 2 in B (1 of 2 benchmarks)"),
        ({"commit": "decade"}, "commit is c0ffee in A, but decade in B (1 of 2 benchmarks)"),
        ({"commit": None}, "commit is c0ffee in A, but f00d in B (1 of 2 benchmarks)"),
        ({"tf32": True}, "tf32 is not recorded in A, but True in B (1 of 2 benchmarks)"),
        ({"steps": 10}, "steps is 1 in A, but 10 in B (1 of 2 benchmarks)"),
        ({"disable_gc": True}, "disable_gc is False in A, but True in B (1 of 2 benchmarks)"),
        ({"timer": "process_time"}, "timer is perf_counter in A, but process_time in B (1 of 2 benchmarks)"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_condition_that_differs_is_named_with_both_values(cautions, changes, text):
    a = document(benchmark(1.0), benchmark(1.0, rows=8))
    b = document(benchmark(1.0, **changes), benchmark(1.0, rows=8))

    assert cautions(a, b) == [f"B should not be compared with A: {text}."]


@pytest.mark.parametrize("subject", ["processor", "torch", "lightning", "python"])
def test_records_that_differ_in_one_condition_are_compared(cautions, subject):
    """Such a difference is the usual reason for a comparison."""
    assert cautions(document(benchmark(1.0)), document(benchmark(1.0, **{subject: "another"}))) == []


def test_records_that_differ_in_two_conditions_are_not_compared(cautions):
    a, b = document(benchmark(1.0)), document(benchmark(1.0, torch="2.0.1", processor="Quipu"))

    assert cautions(a, b) == [
        (
            "B should not be compared with A: a ratio cannot tell apart that processor is Abacus 9 in A, "
            "but Quipu in B (1 of 1 benchmarks) and that torch is 2.13.0 in A, but 2.0.1 in B (1 of 1 benchmarks)."
        )
    ]


def test_each_device_is_compared_with_one_of_the_same_type(cautions):
    """The CPU and the GPU of one file have different names, which is not a difference between runs."""
    both = document(benchmark(1.0), benchmark(1.0, device="cuda", processor="Loom", tf32=False))
    cpu = document(benchmark(1.0))

    assert cautions(both, cpu) == cautions(cpu, both) == cautions(both, both) == cautions(both) == []


def test_files_with_nothing_in_common_are_named(cautions):
    assert cautions(document(benchmark(1.0)), document(benchmark(1.0, rows=8))) == [
        "B should not be compared with A: they have no benchmark in common."
    ]


def test_uncommitted_changes_are_named_in_a_comparison(cautions):
    clean, dirty = document(benchmark(1.0)), document(benchmark(1.0), dirty=True)

    assert cautions(dirty) == []
    assert cautions(clean, dirty) == [
        "B should not be compared with A: B ran with uncommitted changes, so its code is not known."
    ]


def test_a_file_with_mixed_conditions_is_named(cautions):
    mixed = document(benchmark(1.0), benchmark(1.0, "fused", threads=2), benchmark(1.0, "compiled-chunk", steps=9))

    assert cautions(mixed) == [
        "Ratios to eager in A mislead: threads is 1 in eager, but 2 in what is compared with it (1 of 3 benchmarks)."
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "A.json should be JSON from pytest --benchmark-json, but is not JSON: Expecting value"),
        ("[1, 2]", "A.json should be JSON from pytest --benchmark-json, but has no list of benchmarks"),
        ('{"benchmarks": 3}', "has no list of benchmarks"),
        ('{"benchmarks": [3]}', "has no list of benchmarks"),
        (document(), "A.json contains no benchmark"),
        (document({"name": "test_other", "group": "other"}), "in 'test_other' extra_info lacks device"),
        (document(benchmark(1.0) | {"extra_info": [1]}), "extra_info is [1], but should be a mapping"),
        (document(benchmark(-1.0)), "median is -1.0, but should be a finite number above 0"),
        (document(benchmark(float("nan"))), "median is nan, but should be"),
        (document(benchmark(1.0) | {"stats": {"median": True}}), "median is True, but should be"),
        (document(benchmark(1.0) | {"stats": {"median": 1.0}}), "iqr is None, but should be a finite number"),
        (document(benchmark(1.0) | {"stats": {"median": 1, "iqr": -2}}), "iqr is -2, but should be a finite number of"),
        (document(benchmark(1.0, steps=0)), "steps is 0, but should be a finite number of at least 1"),
        (document(benchmark(1.0, rows="4", flops_per_step=1)), "rows is '4', but should be a finite number"),
        (document(benchmark(1.0, device="tpu")), "device is 'tpu', but should be one of cpu, cuda"),
        (document(benchmark(1.0) | {"group": None}), "group is None, but should be a name"),
        (document(benchmark(1.0), benchmark(1.0)), "should contain each benchmark once, but contains 'test_step[cpu-"),
    ],
)
def test_a_file_that_is_not_a_record_of_this_suite_is_refused_in_one_line(reported, tmp_path, content, message):
    result = reported(content)

    assert result.exit_code == 2, result.output
    assert isinstance(result.exception, SystemExit)
    (line,) = result.output.splitlines()
    assert line.startswith("Error: A.json")
    assert message in line
    assert not list(tmp_path.glob("*.png"))


def step(strategy, device, rows, seconds):
    """A step of ``16 * 4 * rows`` floating-point operations."""
    return benchmark(seconds, strategy, device=device, rows=rows, processor={"cpu": "Abacus 9", "cuda": "Loom"}[device])


def crossing():
    """On the CPU the time grows with the rows, from 1 µs; on CUDA it is 4 µs for any, so they cross at 16 rows."""
    return document(
        *(step("eager", "cpu", rows, rows / 4 * MICROSECOND) for rows in (4, 64, 256)),
        *(step("eager", "cuda", rows, 4 * MICROSECOND) for rows in (4, 64, 256)),
    )


def test_both_plots_are_written_and_linked_in_the_report(reported, tmp_path):
    result = reported(crossing(), options=["--plots", "new/plots"])

    assert result.exit_code == 0, result.output
    for name in ("sizes.png", "strategies.png"):
        assert (tmp_path / "new" / "plots" / name).read_bytes().startswith(b"\x89PNG")
        assert f"(new/plots/{name})" in result.output
    assert "- A, eager: CUDA is faster from 1.02 kFLOP a step, between 4x4 and 64x4." in result.output


def marks(figure):
    return [
        tuple(map(float, line.get_xydata()[0]))
        for axes in figure.axes
        for line in axes.get_lines()
        if line.get_label() == "crossover, interpolated"
    ]


def runs(tmp_path, *documents):
    return read_all(written(tmp_path, documents))


def test_the_crossover_is_marked_where_the_curves_cross(tmp_path):
    """At 16 rows, 1,024 operations and 4 µs, to three digits."""
    figure = plot_sizes(runs(tmp_path, crossing()))

    ((size, time),) = marks(figure)
    assert (f"{size:.3g}", f"{time:.3g}") == ("1.02e+03", "4e-06")
    assert [text.get_text() for text in figure.axes[0].texts] == ["1.02 kFLOP"]


@pytest.mark.parametrize(("cuda", "winner"), [(1e-3, "CPU"), (1e-9, "CUDA")])
def test_without_a_crossover_the_faster_curve_is_named_and_nothing_is_marked(tmp_path, cuda, winner):
    (run,) = runs(
        tmp_path,
        document(*(step("eager", d, n, {"cpu": 1e-6, "cuda": cuda}[d]) for d in ("cpu", "cuda") for n in (4, 64, 256))),
    )

    assert verdicts(run) == [f"A, eager: {winner} is faster at 3 of 3 sizes timed on both."]
    assert marks(plot_sizes([run])) == []


def test_a_lead_within_the_quartiles_is_reported_as_such(tmp_path):
    (run,) = runs(tmp_path, document(step("eager", "cpu", 4, 1.0), step("eager", "cuda", 4, 1.01)))

    assert verdicts(run) == [
        "A, eager: CPU is faster at 1 of 1 sizes timed on both.",
        "A, eager: the quartiles overlap at 1 of 1 sizes timed on both.",
    ]


def test_devices_timed_at_different_sizes_are_not_compared(tmp_path):
    (run,) = runs(tmp_path, document(step("eager", "cpu", 4, 1.0), step("eager", "cuda", 64, 1e-3)))

    assert verdicts(run) == ["A, eager: no size was timed on both CPU and CUDA."]
    assert marks(plot_sizes([run])) == []


def test_a_file_with_only_peers_is_plotted(reported):
    result = reported(document(benchmark(1.0, "numpy"), benchmark(2.0, "jax-jit")))

    assert result.exit_code == 0, result.output
    assert "there is no step of SimpleNet on CPU or CUDA in this file" in result.output


def test_a_file_without_cuda_is_plotted_and_says_so(tmp_path):
    cpu = document(*(step("eager", "cpu", rows, rows * MICROSECOND) for rows in (4, 64)))
    found = runs(tmp_path, crossing(), cpu)

    figure = plot_sizes(found)

    assert verdicts(found[1]) == ["B: there is no step of SimpleNet on CUDA in this file, so nothing crosses."]
    assert [axes.get_title() for axes in figure.axes] == ["A", "B; no step on CUDA in this file"]
    assert len(marks(figure)) == 1


def test_the_fastest_curve_excludes_peers(tmp_path):
    """The curves of eager do not cross; those of the fastest strategy do."""
    (run,) = runs(
        tmp_path,
        document(
            *(
                step("eager", device, rows, seconds)
                for device, seconds in (("cpu", 1e-3), ("cuda", 2e-3))
                for rows in (4, 64)
            ),
            step("fused", "cpu", 4, 1e-6),
            step("compiled", "cpu", 64, 16e-6),
            *(step("cuda-graph", "cuda", rows, 4e-6) for rows in (4, 64)),
            *(step("jax-scan", "cpu", rows, 1e-9) for rows in (4, 64)),
        ),
    )

    assert verdicts(run) == [
        "A, eager: CPU is faster at 2 of 2 sizes timed on both.",
        "A, fastest strategy: CUDA is faster from 1.02 kFLOP a step, between 4x4 and 64x4.",
    ]


def test_the_report_knows_every_strategy_that_computes_in_float32():
    """It has its own list, because it does not import torch."""
    assert tuple(name for name in steps.STRATEGIES if name not in KINDS) == STRATEGIES


def test_strategies_are_plotted_at_the_scale_where_most_were_timed(tmp_path):
    found = runs(
        tmp_path,
        document(
            *(step("eager", "cpu", rows, 1e-6) for rows in (4, 64, 256)),
            *(step("numpy", "cpu", rows, 3e-6) for rows in (64, 256)),
            step("fused", "cpu", 64, 4e-6),
            step("fused", "cuda", 256, 2e-6),
        ),
    )

    (axes,) = plot_strategies(found, common_scale(found)).axes

    assert axes.get_title() == "one step at 64x4 (rows x hidden)"
    assert [label.get_text() for label in axes.get_yticklabels()] == ["eager, CPU", "fused, CPU", "numpy, CPU"]
    assert {text.get_text() for text in axes.texts} == {"1.00 µs", "3.00 µs", "4.00 µs"}


@pytest.mark.parametrize(
    ("scale", "message"),
    [
        ("5x5", "--scale is 5x5, but should be one of the timed sizes: 4x4, 64x4, 256x4"),
        ("4", "'4' is not rows and hidden units with an x between them"),
        ("4x-4", "'4x-4' is not rows and hidden units"),
    ],
)
def test_a_scale_that_was_not_timed_is_refused(reported, scale, message):
    result = reported(crossing(), options=["--scale", scale])

    assert result.exit_code == 2
    assert message in result.output.splitlines()[-1]


def test_a_file_without_steps_has_a_table_and_no_plot(reported, tmp_path):
    result = reported(document(benchmark(1.0, "DataLoader", group="loader")))

    assert result.exit_code == 0
    assert "DataLoader" in result.output
    assert (
        result.output.splitlines()[-1] == "No benchmark is in the group 'training step', so there is nothing to plot."
    )
    assert not list(tmp_path.glob("*.png"))


def test_without_matplotlib_the_report_says_what_to_install(reported, monkeypatch):
    monkeypatch.setattr(command, "find_spec", lambda _name: None)

    result = reported(crossing())

    assert result.exit_code == 2
    assert result.output.endswith(": pip install matplotlib\n")


@given(crossover=st.integers(-4, 20), first=st.integers(0, 8), slope=st.sampled_from([-2, -1, 1, 2]))
@example(crossover=4, first=0, slope=1)  # at a measured size
def test_straight_curves_cross_only_within_the_measured_range(crossover, first, slope):
    """All logarithms are multiples of small powers of two, so the interpolation is exact."""
    exponents = [first, first + 4, first + 8]
    sizes = [2.0**n for n in exponents]
    cpu = [2.0 ** (slope * (n - crossover)) for n in exponents]
    cuda = [1.0] * 3

    found = crossovers(sizes, cpu, cuda)

    inside = exponents[0] < crossover < exponents[-1]
    assert found == ([(2.0**crossover, 1.0, int(crossover > exponents[1]))] if inside else [])


@given(signs=st.lists(st.sampled_from([-1, 0, 1]), min_size=1, max_size=8))
def test_every_change_of_the_fastest_curve_is_a_crossover_and_a_tie_is_not(signs):
    sizes = [4.0**i for i in range(len(signs))]

    found = crossovers(sizes, [2.0**sign for sign in signs], [1.0] * len(signs))

    leads = [sign for sign in signs if sign]
    assert len(found) == sum(a != b for a, b in pairwise(leads))
    assert all(sizes[i] <= size <= sizes[i + 1] for size, _, i in found)


def test_the_readme_shows_rows_of_the_records(monkeypatch):
    monkeypatch.setattr(command, "_write", lambda *_: [])
    root = Path(__file__).parent.parent.parent
    section = (root / "README.md").read_text("utf-8").partition("\n## Time\n")[2].partition("\n## ")[0]

    records = sorted((root / "benchmarks" / "results").glob("*.json"))
    printed = [line for path in records for line in CliRunner().invoke(command.main, [str(path)]).output.splitlines()]

    shown = [line for line in section.splitlines() if line.startswith("| ")]
    assert len(shown) > 10
    assert set(shown) - set(printed) == set(), "stale: show what python -m benchmarks.report prints"


def test_pytest_benchmark_compares_the_same_files(tmp_path, monkeypatch, capsys):
    """In an empty directory, because in the checkout it would load conftest.py a second time."""
    monkeypatch.chdir(tmp_path)
    for name, seconds in (("before", 1.0), ("after", 1.5)):
        Path(f"{name}.json").write_text(json.dumps(document(benchmark(seconds))))
    monkeypatch.setattr(sys, "argv", ["pytest-benchmark", "compare", "--columns=median", "before.json", "after.json"])

    pytest_benchmark.cli.main()

    lines = capsys.readouterr().out.splitlines()
    medians = {name: line.split()[2:] for line in lines for name in ("before", "after") if f"{name})" in line}
    assert medians == {"before": ["1.0000", "(1.0)"], "after": ["1.5000", "(1.50)"]}
