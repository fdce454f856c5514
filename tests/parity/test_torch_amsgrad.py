"""AMSGrad as PyTorch has it: the maximum over the second moment before its correction."""

import pytest

import gradx as gx
from tests.parity.paths import assert_same_path

torch = pytest.importorskip("torch", reason="torch is in the extra 'parity': make test-parity")


def test_max_over_raw_is_torch(x64):
    assert_same_path(
        gx.amsgrad(0.1, b2=0.9, eps=1e-3, max_over="raw"),
        lambda p: torch.optim.Adam(p, lr=0.1, betas=(0.9, 0.9), eps=1e-3, amsgrad=True),
    )


def test_with_l2_regularisation_before_or_decay_after(x64):
    ours = gx.scale_by_amsgrad(max_over="raw")
    decay, rate = gx.add_decayed_weights(0.1), gx.scale_by_learning_rate(0.1)
    assert_same_path(
        gx.chain(decay, ours, rate),
        lambda p: torch.optim.Adam(p, lr=0.1, weight_decay=0.1, amsgrad=True),
    )
    assert_same_path(
        gx.chain(ours, decay, rate),
        lambda p: torch.optim.AdamW(p, lr=0.1, weight_decay=0.1, amsgrad=True),
    )


def test_the_other_maxima_are_not_torch(x64):
    for max_over in ("corrected", "paper"):
        with pytest.raises(AssertionError, match="Not equal to tolerance"):
            assert_same_path(
                gx.amsgrad(0.1, max_over=max_over),
                lambda p: torch.optim.Adam(p, lr=0.1, amsgrad=True),
                atol=1e-3,
            )
