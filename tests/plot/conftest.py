"""Pictures are drawn into files, of which none outlives its test."""

import matplotlib.pyplot as plt
import pytest


@pytest.fixture(autouse=True)
def closed():
    """No window, and no figure that outlives a test."""
    plt.switch_backend("Agg")
    yield
    plt.close("all")
