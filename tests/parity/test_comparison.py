"""The README's table of libraries: the cells of torch and pytorch_optimizer, by what they do."""

import importlib.metadata

import pytest

from tests import comparison
from tests.features.of_pytorch_optimizer import PytorchOptimizer
from tests.features.of_torch import Torch, torch


@pytest.mark.parametrize("row", comparison.ROWS, ids=lambda row: row.probe)
@pytest.mark.parametrize(("column", "library"), [("torch", Torch), ("pytorch_optimizer", PytorchOptimizer)])
def test_a_cell_says_what_the_probe_finds(row, column, library):
    assert comparison.said(getattr(library(), row.probe)()) == getattr(row, column)


def test_the_heads_have_the_versions():
    found = {
        f"torch.optim {torch.__version__}",
        f"pytorch_optimizer {importlib.metadata.version('pytorch-optimizer')}",
    }
    assert all(any(x.startswith(head) for x in found) for head in comparison.LIBRARIES[2:])
