"""The README's table of libraries: the cells of torch and pytorch_optimizer, by what they do."""

import pytest

from tests import comparison
from tests.parity import features


@pytest.mark.parametrize("row", comparison.ROWS, ids=lambda row: row.probe)
@pytest.mark.parametrize("column", ["torch", "pytorch_optimizer"])
def test_a_cell_says_what_the_probe_finds(row, column):
    library = {"torch": features.Torch, "pytorch_optimizer": features.PytorchOptimizer}[column]
    assert comparison.said(getattr(library(), row.probe)()) == getattr(row, column)
