"""A run of torch's goes on in gradx: its state carried over in the middle, and the rest step by step."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradx as gx
from tests.parity.test_torch_optimizers import COMPLEX_ROWS, ROWS, STEPS, torch_in_float64  # noqa: F401  (a fixture)
from tests.problems import complex_params, grads, params

torch = pytest.importorskip("torch", reason="torch is in the extra 'parity': make test-parity")
pytestmark = pytest.mark.usefixtures("x64")

HALF = STEPS // 2


def torch_run(make, start):
    """The optimizer after half the steps, the parameters then, and those after each later step."""
    ps = [torch.nn.Parameter(torch.tensor(np.array(x))) for x in jax.tree.leaves(start)]
    optimizer, seen = make(ps), []
    for i in range(STEPS):
        if i == HALF:
            saved = optimizer.state_dict()
            # A copy: what `state_dict` gives goes on with the optimizer.
            saved = {"state": copied(saved["state"]), "param_groups": saved["param_groups"]}
            middle = [p.detach().numpy().copy() for p in ps]
        for p, g in zip(ps, jax.tree.leaves(grads(i, start)), strict=True):
            p.grad = torch.tensor(np.array(g))
        optimizer.step()
        seen.append([p.detach().numpy().copy() for p in ps])
    return saved, middle, seen[HALF:]


def copied(states):
    clone = lambda x: x.clone() if isinstance(x, torch.Tensor) else x
    return {i: {name: clone(x) for name, x in state.items()} for i, state in states.items()}


def assert_goes_on(tx, saved, middle, rest, like, **kwargs):
    p = jax.tree.unflatten(jax.tree.structure(like), [jnp.asarray(x) for x in middle])
    state, update = gx.import_torch_state(tx, p, saved, **kwargs), jax.jit(tx.update)
    assert jax.tree.structure(state) == jax.tree.structure(tx.init(p))
    for i, ys in enumerate(rest, HALF):
        u, state = update(grads(i, p), state, p)
        p = gx.apply_updates(p, u)
        for x, y in zip(jax.tree.leaves(p), ys, strict=True):
            np.testing.assert_allclose(x, y, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("name", "kwargs"), ROWS, ids=str)
def test_a_run_of_torchs_goes_on(name, kwargs):
    like = params("float64")
    run = torch_run(lambda ps: getattr(torch.optim, name)(ps, **kwargs), like)
    step = HALF if name == "SGD" else None  # which torch does not count there
    assert_goes_on(getattr(gx.torch, name)(**kwargs), *run, like, step=step)


@pytest.mark.parametrize(("name", "kwargs"), COMPLEX_ROWS, ids=str)
def test_a_complex_run_of_torchs_goes_on(name, kwargs):
    """The slots are complex on both sides."""
    like = complex_params("complex128")
    run = torch_run(lambda ps: getattr(torch.optim, name)(ps, **kwargs), like)
    step = HALF if name == "SGD" else None
    assert_goes_on(getattr(gx.torch, name)(**kwargs), *run, like, step=step)


def two_of_one_shape():
    """A model whose parameters are registered in another order than that of their names, after one step."""
    model = torch.nn.Module()
    for name in ("z", "a"):
        setattr(model, name, torch.nn.Linear(2, 2))
    return model


def one_step(model, optimizer):
    gs = {name: float(i) for i, (name, _) in enumerate(model.named_parameters(), 1)}
    for name, p in model.named_parameters():
        p.grad = torch.full_like(p, gs[name])
    optimizer.step()
    return gs


@pytest.mark.parametrize("saving", ["named_parameters", "distributed.checkpoint"])
def test_torchs_names_decide(saving):
    model = two_of_one_shape()
    if saving == "named_parameters":
        optimizer = torch.optim.Adam(model.named_parameters())
        gs = one_step(model, optimizer)
        saved = optimizer.state_dict()
    else:
        from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict

        optimizer = torch.optim.Adam(model.parameters())
        gs = one_step(model, optimizer)
        saved = get_optimizer_state_dict(model, optimizer)
    like = {layer: {"bias": jnp.ones(2), "kernel": jnp.ones((2, 2))} for layer in ("a", "z")}
    state = gx.import_torch_state(gx.torch.Adam(), like, saved, convert=lambda path, x: x.T)
    mu = gx.get_slot(state, like, "mu")
    for name, g in gs.items():
        layer, kind = name.split(".")
        mine = mu[layer]["kernel" if kind == "weight" else kind]
        np.testing.assert_allclose(mine, 0.1 * g, rtol=1e-12)


def test_it_goes_on_in_gradx_s_own_with_a_schedule_behind_a_clip():
    """AdamW under a cosine: the schedule goes on at torch's step."""
    like, kwargs = params("float64"), dict(betas=(0.8, 0.95), weight_decay=0.1)
    rate = gx.torch.CosineAnnealingLR(0.1, T_max=STEPS)
    ps = [torch.nn.Parameter(torch.tensor(np.array(x))) for x in jax.tree.leaves(like)]
    optimizer = torch.optim.AdamW(ps, lr=0.1, **kwargs)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=STEPS)
    seen = []
    for i in range(STEPS):
        if i == HALF:
            saved = {**optimizer.state_dict(), "state": copied(optimizer.state_dict()["state"])}
            middle = [p.detach().numpy().copy() for p in ps]
        for p, g in zip(ps, jax.tree.leaves(grads(i, like)), strict=True):
            p.grad = torch.tensor(np.array(g))
        optimizer.step()
        scheduler.step()
        seen.append([p.detach().numpy().copy() for p in ps])
    tx = gx.packed(gx.chain(gx.clip(1e6), gx.adamw(rate, b1=0.8, b2=0.95, weight_decay=0.1)))
    assert_goes_on(tx, saved, middle, seen[HALF:], like)


@pytest.mark.parametrize("name", ["AdamW", "Adafactor"])
def test_parameters_in_another_order_and_transposed(name):
    """A torch Linear, whose weight is (out, in), beside the kernel (in, out) of a JAX network."""
    like = {"dense": {"bias": jnp.linspace(0.0, 1.0, 2), "kernel": jnp.linspace(-1.0, 1.0, 6).reshape(3, 2)}}
    weight, bias = np.array(like["dense"]["kernel"]).T.copy(), np.array(like["dense"]["bias"])
    ps = [torch.nn.Parameter(torch.tensor(x)) for x in (weight, bias)]
    optimizer, tx = getattr(torch.optim, name)(ps, lr=0.1), getattr(gx.torch, name)(lr=0.1)

    def step(i, p):
        g = grads(i, p)["dense"]
        ps[0].grad = torch.tensor(np.array(g["kernel"]).T.copy())
        ps[1].grad = torch.tensor(np.array(g["bias"]))
        optimizer.step()

    for i in range(3):
        step(i, like)
    here = lambda: {"dense": {"bias": jnp.array(ps[1].detach()), "kernel": jnp.array(ps[0].detach()).T}}
    p, paths = here(), ["dense/kernel", "dense/bias"]
    transpose = lambda path, x: x.T if path.endswith("kernel") else x
    state = gx.import_torch_state(tx, p, optimizer.state_dict(), paths=paths, convert=transpose)
    for i in range(3, 6):
        u, state = tx.update(grads(i, p), state, p)
        p = gx.apply_updates(p, u)
        step(i, p)
        for x, y in zip(jax.tree.leaves(p), jax.tree.leaves(here()), strict=True):
            np.testing.assert_allclose(x, y, rtol=0, atol=1e-12)


def test_bfloat16_moments_come_over():
    p = torch.nn.Parameter(torch.ones(3, dtype=torch.bfloat16))
    optimizer = torch.optim.Adam([p])
    p.grad = torch.full((3,), 0.5, dtype=torch.bfloat16)
    optimizer.step()
    ours = {"w": jnp.ones(3, jnp.bfloat16)}
    state = gx.import_torch_state(gx.adam(1e-3), ours, optimizer.state_dict())
    mu = gx.get_slot(state, ours, "mu")["w"]
    assert mu.dtype == jnp.float32
    np.testing.assert_array_equal(mu, optimizer.state[p]["exp_avg"].float().numpy())
