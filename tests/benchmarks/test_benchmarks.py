"""The benchmarks measure what they say: counted on subjects and clocks that are known, never by the time."""

import functools
import json
import sys
from unittest.mock import ANY

import numpy as np
import pytest

from tests.benchmarks import __main__ as command
from tests.benchmarks import growth, machine, measure, report, subjects, timing
from tests.benchmarks.measure import Case
from tests.benchmarks.timing import Limits

close = functools.partial(pytest.approx, rel=1e-4)  # results are rounded
ONCE = Limits(0.0, least=1, most=1)
MACHINE = {**machine.describe(), "copy_bandwidth": 1e10, "quick": True}


class Clock:
    """A clock that goes on only when something runs."""

    def __init__(self):
        self.now, self.ran = 0.0, []

    def __call__(self):
        return self.now

    def takes(self, name, seconds):
        """A run of so many seconds, the next time of so many, and so on, the last from then on."""
        seconds = list(seconds)

        def run():
            self.ran.append(name)
            self.now += seconds.pop(0) if len(seconds) > 1 else seconds[0]

        return run


def test_turns_alternate_until_the_time_is_used():
    clock = Clock()
    seen = []
    for name in timing.turns(["a", "b", "c"], Limits(3.5, least=1, most=9), clock):
        seen.append(name)
        clock.now += 0.5
    assert "".join(seen) == "abccbaabc"  # three rounds of 1.5 seconds
    assert len(list(timing.turns(["a"], Limits(0.0, least=4, most=9), Clock()))) == 4
    assert len(list(timing.turns(["a"], Limits(9.0, least=4, most=6), Clock()))) == 6


def test_rounds_are_compared_one_by_one():
    """A machine that is ten times slower in one round changes neither the ratio nor its quartiles."""
    clock = Clock()
    runs = {
        "gradx": clock.takes("gradx", [1, 1, 1, 10, 1]),
        "optax": clock.takes("optax", [2, 2, 2, 20, 2]),
    }
    samples = timing.interleave(runs, Limits(0.0, least=3, most=3), clock)
    assert samples == {"gradx": [1, 10, 1], "optax": [2, 20, 2]}
    assert timing.ratio(samples["gradx"], samples["optax"]) == (0.5, 0.5, 0.5)
    assert clock.ran[4:] == ["gradx", "optax", "optax", "gradx", "gradx", "optax"]


def test_what_is_short_is_run_several_times_for_a_sample():
    clock = Clock()
    runs = {"gradx": clock.takes("gradx", [timing.SAMPLE / 4]), "optax": clock.takes("optax", [1])}
    samples = timing.interleave(runs, Limits(0.0, least=2, most=2), clock)
    assert np.allclose(samples["gradx"], timing.SAMPLE / 4)
    assert clock.ran.count("gradx") == 2 + 2 * 5
    assert clock.ran.count("optax") == 2 + 2


def test_spread_is_median_and_quartiles():
    assert timing.spread([4.0, 1.0, 2.0, 3.0, 100.0]) == (3.0, 2.0, 4.0)


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """Tiny cases from end to end, without torch."""
    import jax

    folder = tmp_path_factory.mktemp("benchmarks")
    cases = [Case("2x256", growth.OPTIMIZER, eager=True), Case("40x256", growth.OPTIMIZER)]
    with pytest.MonkeyPatch.context() as patch, jax.numpy_dtype_promotion("standard"):
        patch.setitem(sys.modules, "torch", None)
        command.run(cases, ONCE, folder, MACHINE)
    return folder, json.loads((folder / "results.json").read_text())


def test_a_case_goes_through_json(measured):
    _, done = measured
    assert done["machine"] == MACHINE
    found = {(r["tree"], r["what"]): r for r in done["results"]}
    step = found["2x256", "step"]
    assert (step["leaves"], step["parameters"], step["rounds"], step["unit"]) == (2, 512, 1, "s")
    assert step["values"].keys() == {"gradx", "optax"}
    assert step["ratios"]["optax"]["median"] == close(
        step["values"]["gradx"]["median"] / step["values"]["optax"]["median"]
    )
    moved = found["2x256", "bytes"]["values"]
    floor = found["2x256", "floor"]["values"]["gradx"]["median"]
    assert 32 * 512 <= floor <= moved["gradx"]["median"] < moved["optax"]["median"]
    assert found["2x256", "peak"]["values"]["gradx"]["median"] >= 16 * 512
    roofline = found["2x256", "roofline"]["values"]["gradx"]["median"]
    assert roofline == close(floor / step["values"]["gradx"]["median"] / MACHINE["copy_bandwidth"])
    eager = {what for tree, what in found if tree == "2x256"}
    assert {"eager", "eager, first", "init", "trace", "lower", "compile", "temporaries", "kernels"} <= eager
    parts = [found["2x256", what]["values"]["gradx"]["median"] for what in ("trace", "lower", "compile")]
    assert found["2x256", "trace + lower + compile"]["values"]["gradx"]["median"] == close(sum(parts))


def test_a_case_goes_through_markdown(measured):
    folder, done = measured
    text = (folder / "tables.md").read_text()
    assert text == "\n".join([report.INTRODUCTION, report.markdown(done), "", report.GROWTH])
    assert "a quick run." in text
    step = next(r for r in done["results"] if r["tree"] == "40x256" and r["what"] == "step")
    rows = f"| | 40 × 256 |\n|---|---|\n| clip+adamw | {report.times(step)} |"
    assert rows in text
    assert " 2 × 256" not in text  # what is measured for a plot is in no table
    assert "`foreach`" not in text  # no torch, no table


def test_the_summary_takes_columns_of_several_tables():
    spread = lambda x: {"median": x}
    record = dict(optimizer="adamw", tree="gpt2", dtype="float32", parameters=10)
    times = dict(values={"gradx": spread(0.02)}, ratios={"optax": spread(0.5), "torch foreach": spread(0.25)})
    times["ratios"]["torch fused"] = spread(1.25)
    moved = dict(values={"gradx": spread(400.0), "optax": spread(600.0)}, ratios={})
    results = [{**record, "what": "step", **times}, {**record, "what": "bytes", **moved}]
    results += [{**r, "dtype": "bfloat16"} for r in results]  # in no summary
    text = report.summary({"machine": MACHINE, "results": results})
    titles = " | ".join(column.title for column in report.SUMMARY)
    row = "| adamw | 0.50 (20 ms) |  |  | 1.25 | 40 / 60 |"
    assert text.startswith(f"| | {titles} |\n|---|---|---|---|---|---|\n{row}\n\ngradx ")


def test_what_is_published_is_made_from_the_results():
    """If this fails: `python -m tests.benchmarks.report` writes the page and the README's table."""
    done = json.loads((report.PUBLISHED / "results.json").read_text())
    readme = report.README.read_text()
    assert report.into(readme, report.summary(done)) == readme
    assert report.markdown(done) in (report.PUBLISHED / "tables.md").read_text()


def test_the_plots_are_drawn_from_results(measured):
    folder, done = measured
    assert (
        (folder / "leaves.png").read_bytes()[:4] == (folder / "parameters.png").read_bytes()[:4] == b"\x89PNG"
    )
    assert (folder / "leaves.png").stat().st_size < 100_000
    step = next(r for r in done["results"] if r["tree"] == "2x256" and r["what"] == "step")
    panel = growth.by_leaves(done["results"])[0]
    assert panel.lines["optax"] == [
        (2, close(step["values"]["optax"]["median"] / 2 / 1e-6)),
        (40, ANY),
    ]
    assert [n for n, _ in growth.by_size(done["results"])[1].lines["gradx"]] == [40 * 256]


def test_a_plot_shows_the_lines_given():
    lines = {"gradx": [(10, 1.0), (100, 2.0)], "optax": [(10, 2.0), (100, 3.0)]}
    figure = growth.draw([growth.Panel("title", "leaves", "step, µs per leaf", lines)])
    (axes,) = figure.axes
    assert (axes.get_xlabel(), axes.get_ylabel(), axes.get_title()) == (
        "leaves",
        "step, µs per leaf",
        "title",
    )
    assert axes.get_xscale() == axes.get_yscale() == "log"
    assert {line.get_label(): line.get_xydata().tolist() for line in axes.lines} == {
        "gradx": [[10, 1], [100, 2]],
        "Optax": [[10, 2], [100, 3]],
    }
    assert len({line.get_linestyle() for line in axes.lines}) == 2  # to be told apart in grey


def test_without_torch_its_rows_are_left_out(measured, monkeypatch, capsys, tmp_path):
    monkeypatch.setitem(sys.modules, "torch", None)
    command.run([], ONCE, tmp_path, MACHINE)
    assert capsys.readouterr().out.startswith(
        "Without torch: it is not installed (pip install 'gradx[bench]')"
    )


def test_torch_is_measured_beside(lenient):
    pytest.importorskip("torch", reason="torch is in the extra 'bench'")
    records = measure.measure(Case("2x8", "clip+adamw"), ONCE, torch=True, bandwidth=1e10)
    step = next(r for r in records if r["what"] == "step")
    assert step["ratios"].keys() == {"optax", "torch foreach", "torch fused"}
    assert float(report.torch_times(step).split(", ")[1]) == pytest.approx(
        step["ratios"]["torch fused"]["median"], abs=0.006
    )


def test_torch_and_gradx_take_the_same_step(lenient):
    """What is timed is the same work: parameters agree after it."""
    pytest.importorskip("torch", reason="torch is in the extra 'bench'")
    import optax

    for name in ("sgd+momentum", "adam", "adamw", "clip+adamw"):
        optimizer, shapes = subjects.OPTIMIZERS[name], subjects.tree_of("2x500")
        ours = subjects.OfJax(optimizer.make(optax), optax.apply_updates, shapes)
        ours.program()
        ours.start(subjects.arrays(shapes, subjects.GRADIENT))
        theirs = subjects.OfTorch(optimizer, shapes, "fused")
        params, _ = ours.step()
        theirs.step()
        assert np.allclose(params["w0001"], theirs.params[1].detach(), rtol=1e-4, atol=2e-7), name


def test_extra_memory_is_what_a_run_takes():
    found = machine.extra_memory(lambda: np.ones(8 * 10**6))
    if found is None:
        assert not (machine.PROCESS / "clear_refs").exists()
    else:
        assert 60e6 < found < 80e6


def test_where_no_kernel_counts_memory_there_is_no_figure(monkeypatch, tmp_path):
    monkeypatch.setattr(machine, "PROCESS", tmp_path)
    assert machine.extra_memory(lambda: np.ones(10)) is None


def test_the_bandwidth_of_a_copy_is_that_of_its_bytes(monkeypatch):
    monkeypatch.setattr(machine, "interleave", lambda runs, limits: {"copy": [runs["copy"]() is None or 0.5]})
    assert machine.copy_bandwidth(size=1000) == 2 * 4 * 1000 / 0.5


def test_trees_go_by_name():
    assert subjects.tree_of("40x256", "bfloat16")["w0039"].shape == (256,)
    assert [leaf.size for leaf in subjects.tree_of("1x1000").values()] == [1000]
    assert set(subjects.TREES) < set(report.COLUMNS)


def test_the_cases_of_a_run():
    cases = command.chosen(command.parse_args([]))
    assert len(cases) == len(set(cases))
    assert {c.optimizer for c in cases} == set(subjects.OPTIMIZERS)
    assert {c.tree for c in cases} >= set(report.COLUMNS)
    assert set(growth.cases()) <= set(cases)
    assert {str(c) for c in command.chosen(command.parse_args(["--only", "gpt2/l?mb"]))} == {
        "gpt2/lamb/float32",
        "gpt2/lamb/bfloat16",
    }
    assert set(command.chosen(command.parse_args(["--quick"]))) < set(cases)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--only", "gpt3/*"], "--only 'gpt3/*' matches nothing; trees: gpt2, "),
        (["--rounds", "0"], "--rounds must be at least 1"),
        (["--seconds", "-1"], "--seconds more than 0"),
    ],
)
def test_a_bad_argument_is_refused(args, message, capsys):
    with pytest.raises(SystemExit):
        command.parse_args(args)
    assert message in capsys.readouterr().err


def test_tables_go_between_the_marks():
    document = report.into("a <!-- bench -->old<!-- /bench --> b", "new")
    assert document == "a <!-- bench -->\n\nnew\n\n<!-- /bench --> b"
    assert report.into(document, "new") == document


@pytest.mark.parametrize(("seconds", "text"), [(2.5e-5, "25 µs"), (0.01234, "12.3 ms"), (61.0, "61 s")])
def test_durations_have_a_unit(seconds, text):
    assert report.duration(seconds) == text


def test_a_document_without_marks_is_refused():
    with pytest.raises(
        ValueError, match="the document must hold <!-- bench --> and, after it, <!-- /bench -->"
    ):
        report.into("no marks", "tables")
