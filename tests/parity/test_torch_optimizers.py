"""gradx.torch gives torch's numbers: every optimizer, float64, 50 steps, gradients falling 300-fold."""

import inspect
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gradx as gx
from tests.problems import complex_params, grads, params
from tests.recorded.rows import TORCH as ROWS

torch = pytest.importorskip("torch", reason="torch is in the extra 'parity': make test-parity")
pytestmark = pytest.mark.usefixtures("x64")

STEPS = 50


def ours(tx, start):
    """The leaves of the parameters after each step, and the last state."""
    p, seen = start, []
    state, update = tx.init(p), jax.jit(tx.update)
    for i in range(STEPS):
        u, state = update(grads(i, p), state, p)
        p = gx.apply_updates(p, u)
        seen.append(jax.tree.leaves(p))
    return seen, state


def theirs(make, start):
    """Likewise, and the optimizer, which `make` makes of the parameters."""
    ps = [torch.nn.Parameter(torch.tensor(np.array(x))) for x in jax.tree.leaves(start)]
    optimizer, seen = make(ps), []
    for i in range(STEPS):
        for p, g in zip(ps, jax.tree.leaves(grads(i, start)), strict=True):
            p.grad = torch.tensor(np.array(g))
        optimizer.step()
        seen.append([p.detach().numpy().copy() for p in ps])
    return seen, optimizer


def assert_same_path(tx, make, start=None):
    start = params("float64") if start is None else start
    for xs, ys in zip(ours(tx, start)[0], theirs(make, start)[0], strict=True):
        for x, y in zip(xs, ys, strict=True):
            np.testing.assert_allclose(x, y, rtol=0, atol=1e-12)


@pytest.fixture(autouse=True)
def torch_in_float64():
    """In which torch keeps NAdam's product and ASGD's rates, whatever the parameters are."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize(("name", "kwargs"), ROWS, ids=str)
def test_gives_torchs_parameters(name, kwargs):
    assert_same_path(getattr(gx.torch, name)(**kwargs), lambda ps: getattr(torch.optim, name)(ps, **kwargs))


COMPLEX_ROWS = [row for row in ROWS if row[0] != "Adafactor"]


@pytest.mark.parametrize(("name", "kwargs"), COMPLEX_ROWS, ids=str)
def test_gives_torchs_complex_parameters(name, kwargs):
    """netket #1009: the two parts are two numbers, each with its own average of squares."""
    make = lambda ps: getattr(torch.optim, name)(ps, **kwargs)
    assert_same_path(getattr(gx.torch, name)(**kwargs), make, start=complex_params("complex128"))


def test_adafactor_of_complex_parameters_is_refused_by_torch():
    """So there are no numbers of torch's for it."""
    p = torch.nn.Parameter(torch.ones(2, dtype=torch.complex128))
    p.grad = torch.ones_like(p)
    with pytest.raises(RuntimeError, match="Adafactor does not support complex parameters"):
        torch.optim.Adafactor([p]).step()


@pytest.mark.parametrize("kwargs", [{}, dict(lr=1.0, eps=(0.3, 0.7), beta2_decay=-0.5)], ids=str)
def test_adafactor_of_other_shapes(kwargs):
    """More axes than two, an axis of length 1; an eps so large that it bounds some elements."""
    start = [
        jnp.linspace(-1.0, 1.0, math.prod(shape)).reshape(shape) for shape in [(5, 2), (2, 3, 4), (3, 1)]
    ]
    assert_same_path(
        gx.torch.Adafactor(**kwargs), lambda ps: torch.optim.Adafactor(ps, **kwargs), start=start
    )


def test_nadam_without_momentum_decay_is_torchs_after_its_warm_up():
    """0.96^(t * 1e6) is 0: the momentum is b1 from the first step on."""
    assert_same_path(gx.nadam(0.1), lambda ps: torch.optim.NAdam(ps, 0.1, momentum_decay=1e6))


def test_asgd_keeps_torchs_average():
    kwargs = dict(lr=0.1, t0=10)
    _, state = ours(gx.torch.ASGD(**kwargs), params("float64"))
    _, optimizer = theirs(lambda ps: torch.optim.ASGD(ps, **kwargs), params("float64"))
    average = optax.tree_utils.tree_get(state, "average")
    for x, s in zip(jax.tree.leaves(average), optimizer.state.values(), strict=True):
        np.testing.assert_allclose(x, s["ax"].numpy(), rtol=0, atol=1e-12)


def test_every_optimizer_of_gradx_torch_has_a_row():
    from gradx.torch import optim

    assert set(optim.__all__) == {name for name, _ in ROWS}


@pytest.mark.parametrize("name", sorted({name for name, _ in ROWS}))
def test_has_torchs_arguments_and_defaults(name):
    """But for `params`, and for what says how torch computes."""
    how = {"params", "foreach", "fused", "capturable", "differentiable"}
    describe = lambda f: {k: p.default for k, p in inspect.signature(f).parameters.items() if k not in how}
    assert describe(getattr(gx.torch, name)) == describe(getattr(torch.optim, name))
