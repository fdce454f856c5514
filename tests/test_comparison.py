"""The README's table of libraries: gradx's and Optax's cells, by what they do; tests/parity has the rest."""

import pathlib

import optax
import pytest

from tests import comparison
from tests.features.of_gradx import Gradx
from tests.features.of_optax import Optax

README = pathlib.Path(__file__).parent.parent / "README.md"


@pytest.mark.parametrize("row", comparison.ROWS, ids=lambda row: row.probe)
@pytest.mark.parametrize("library", [Gradx, Optax])
def test_a_cell_says_what_the_probe_finds(row, library, lenient):
    assert comparison.said(getattr(library(), row.probe)()) == getattr(row, library.__name__.lower())


def test_the_head_has_optax_s_version():
    assert f"Optax {optax.__version__}" in comparison.LIBRARIES


def test_the_readme_has_the_table():
    """If this fails: `python -m tests.comparison` prints the table to put into the README."""
    assert f"<!-- comparison -->\n\n{comparison.table()}\n\n<!-- /comparison -->" in README.read_text()
