"""Notebooks are as their text, small, run with what they show; in `make test-all` they run again."""

import pytest

from tests.notebooks import FOLDER, NAMES, committed, executed, written

KILOBYTES = 500  # of a notebook with its pictures


@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_is_its_text_with_outputs(name):
    """If this fails: `make notebooks` runs them and writes them anew."""
    text, notebook = written(name), committed(name)
    assert [(c.cell_type, c.source) for c in notebook.cells] == [(c.cell_type, c.source) for c in text.cells]
    assert (FOLDER / f"{name}.ipynb").stat().st_size < KILOBYTES * 1024
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    assert complaints(notebook) == []


def test_every_notebook_has_a_text():
    assert sorted(path.stem for path in FOLDER.glob("*.ipynb")) == NAMES


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_runs_and_shows_what_it_showed(name):
    ran = executed(name)
    assert kinds(ran) == kinds(committed(name))
    assert complaints(ran) == []


def kinds(notebook):
    """What each cell showed: text, tables, pictures."""
    return [
        [sorted(output.get("data", [output.output_type])) for output in cell.get("outputs", [])]
        for cell in notebook.cells
    ]


def complaints(notebook):
    """Errors, what was written to stderr, as warnings are, and objects that show where they are."""
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    is_noise = lambda o: o.get("name") == "stderr" or " at 0x" in str(o.get("data", {}).get("text/plain"))
    return [o for o in outputs if o.output_type == "error" or is_noise(o)]
