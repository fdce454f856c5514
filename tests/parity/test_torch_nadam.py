"""NAdam with PyTorch's momentum schedule, and its weight decay of either kind."""

import pytest

import gradx as gx
from tests.parity.paths import assert_same_path

torch = pytest.importorskip("torch", reason="torch is in the extra 'parity': make test-parity")


@pytest.fixture(autouse=True)
def double():
    """PyTorch keeps the product of the momenta in its default dtype, whatever the parameters are."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("momentum_decay", [0.004, 1.0])
def test_momentum_decay_is_torch(momentum_decay, x64):
    assert_same_path(
        gx.nadam(0.1, b1=0.8, eps=1e-3, momentum_decay=momentum_decay),
        lambda p: torch.optim.NAdam(p, 0.1, betas=(0.8, 0.999), eps=1e-3, momentum_decay=momentum_decay),
    )


def test_l2_regularisation_before_and_decay_after(x64):
    assert_same_path(
        gx.chain(gx.add_decayed_weights(0.1), gx.nadam(0.1, momentum_decay=0.004)),
        lambda p: torch.optim.NAdam(p, 0.1, weight_decay=0.1),
    )
    assert_same_path(
        gx.nadamw(0.1, weight_decay=0.1, momentum_decay=0.004),
        lambda p: torch.optim.NAdam(p, 0.1, weight_decay=0.1, decoupled_weight_decay=True),
    )


def test_without_momentum_decay_it_is_torch_after_its_warm_up(x64):
    """0.96^(t * 1e6) is 0: the momentum is b1 from the first step on."""
    assert_same_path(gx.nadam(0.1), lambda p: torch.optim.NAdam(p, 0.1, momentum_decay=1e6))
