"""What a state of torch's holds, and how it comes over, where torch is not installed."""

import jax.numpy as jnp
import numpy as np
import pytest

import gradx as gx


def test_first_moments_of_a_beta_that_follows_a_schedule_are_not_torch_s():
    tx = gx.chain(gx.scale_by_adam(b1=gx.linear_schedule(0.5, 0.9, 10)), gx.scale(-0.1))
    moments = {"step": 3.0, "exp_avg": np.ones(2), "exp_avg_sq": np.ones(2)}
    saved = {"state": {0: moments}, "param_groups": [{"params": [0]}]}
    with pytest.raises(ValueError, match="of a beta that follows a schedule, is not in torch's state"):
        gx.import_torch_state(tx, {"w": jnp.ones(2)}, saved)


def test_the_sizes_of_rprop_take_the_signs_of_both_parts():
    """torch has the gradient itself; the state has a step of that sign, in each part of a complex number."""
    p = {"z": jnp.ones(2, jnp.complex64)}
    size, prev = np.array([0.1 + 0.2j, 0.3 + 0.4j], np.complex64), np.array([5 - 7j, -9 + 2j], np.complex64)
    saved = {
        "state": {0: {"step": 2.0, "step_size": size, "prev": prev}},
        "param_groups": [{"params": [0]}],
    }
    state = gx.import_torch_state(gx.torch.Rprop(), p, saved)
    np.testing.assert_allclose(
        gx.get_slot(state, p, "prev_updates")["z"], [0.1 - 0.2j, -0.3 + 0.4j], rtol=1e-6
    )


class Tensor:
    """A tensor of torch's: it has to leave its graph and its device, and NumPy has no bfloat16."""

    def __init__(self, array, dtype="torch.float32", steps=()):
        self.array, self.dtype, self.steps = array, dtype, steps

    def __getattr__(self, step):
        if step not in ("detach", "cpu", "float"):
            raise AttributeError(step)
        return lambda: Tensor(
            self.array, "torch.float32" if step == "float" else self.dtype, (*self.steps, step)
        )

    def __array__(self, dtype=None, copy=None):
        assert self.steps[:2] == ("detach", "cpu")
        assert self.dtype == "torch.float32"
        return np.asarray(self.array, np.float32)


def test_tensors_of_torch_come_over_from_any_device_and_in_bfloat16():
    ours, moments = {"w": jnp.ones(2)}, {"step": Tensor(3.0), "exp_avg": Tensor([0.5, 1.0])}
    moments |= {"exp_avg_sq": Tensor([1.0, 4.0], "torch.bfloat16")}
    saved = {"state": {0: moments}, "param_groups": [{"params": [0]}]}
    state = gx.import_torch_state(gx.adam(0.1), ours, saved)
    assert gx.get_slot(state, ours, "count") == 3
    np.testing.assert_array_equal(gx.get_slot(state, ours, "mu")["w"], [0.5, 1.0])
    np.testing.assert_array_equal(gx.get_slot(state, ours, "nu")["w"], [1.0, 4.0])
