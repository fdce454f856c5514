"""Adamax: PyTorch puts eps where gradx and Optax do, on the size of each gradient."""

import pytest

import gradx as gx
from tests.parity.paths import assert_same_path

torch = pytest.importorskip("torch", reason="torch is in the extra 'parity': make test-parity")


def test_adamax_is_torch(x64):
    assert_same_path(
        gx.adamax(0.1, b2=0.9, eps=0.01),
        lambda p: torch.optim.Adamax(p, 0.1, betas=(0.9, 0.9), eps=0.01),
    )


def test_l2_regularisation(x64):
    assert_same_path(
        gx.chain(gx.add_decayed_weights(0.1), gx.adamax(0.1)),
        lambda p: torch.optim.Adamax(p, 0.1, weight_decay=0.1),
    )
