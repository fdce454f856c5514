"""The cost of a step: the compiler's own figures, how they are shown, and targets that are not there."""

import dataclasses
import functools
import importlib.util
import json
import os
import pathlib
import re
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import gradx as gx
from gradx.analysis import compilers as targets
from tests import trees
from tests.benchmarks import scale

PARAMS = {"w": jax.ShapeDtypeStruct((300, 500), jnp.float32), "b": jax.ShapeDtypeStruct((500,), jnp.float32)}
CLIPPED = gx.chain(gx.clip_by_global_norm(1.0), gx.adamw(1e-3))


@pytest.mark.parametrize(
    "tx",
    [gx.sgd(0.1), CLIPPED, gx.lamb(1e-3), optax.lamb(1e-3)],
    ids=["sgd", "clip+adamw", "lamb", "optax.lamb"],
)
def test_bytes_are_the_compilers(tx, lenient):
    def step(params, state, grads):
        updates, state = tx.update(grads, state, params)
        return gx.apply_updates(params, updates), state

    state = jax.eval_shape(tx.init, PARAMS)
    compiled = jax.jit(step, donate_argnums=(0, 1)).lower(PARAMS, state, PARAMS).compile()
    found = gx.cost(tx, PARAMS, platform="cpu")
    assert found.moved_bytes == compiled.cost_analysis()["bytes accessed"]
    assert found.temporary_bytes == compiled.memory_analysis().temp_size_in_bytes
    assert found.state_bytes == sum(s.size * s.dtype.itemsize for s in jax.tree.leaves(state))


def test_figures_of_adamw_and_of_clipping():
    adamw, clipped = (gx.cost(tx, PARAMS) for tx in (gx.adamw(1e-3), CLIPPED))
    assert (adamw.platform, adamw.device) == ("cpu", "cpu")
    assert (adamw.parameters, adamw.leaves) == (150_500, 2)
    assert adamw.temporary_bytes < 100  # scalars
    assert adamw.state_bytes == 2 * 4 * 150_500 + 4
    assert adamw.floor_per_parameter == pytest.approx(28, abs=1e-3)
    assert adamw.moved_per_parameter == pytest.approx(40, abs=0.01)
    assert clipped.floor_per_parameter == pytest.approx(32, abs=1e-3)
    assert adamw.kernels >= 2 * 3  # on the CPU each of three arrays of a leaf is made by its own
    assert clipped.kernels >= adamw.kernels + 2
    assert min(adamw.trace_seconds, adamw.lower_seconds, adamw.compile_seconds) > 0


def test_shapes_are_enough():
    """Parameters of 4 TB are compiled for; arrays cost what their shapes cost."""
    huge = gx.cost(gx.adamw(1e-3), jax.ShapeDtypeStruct((10**6, 10**6), jnp.float32))
    assert huge.moved_per_parameter == pytest.approx(40)
    arrays = jax.tree.map(lambda p: jnp.ones(p.shape, p.dtype), PARAMS)
    assert gx.cost(CLIPPED, arrays) == gx.cost(CLIPPED, PARAMS)
    assert not any(p.is_deleted() for p in jax.tree.leaves(arrays))


def test_missing_leaves_are_not_counted():
    holes = PARAMS | {"none": None, "masked": optax.MaskedNode()}
    assert gx.cost(CLIPPED, holes) == gx.cost(CLIPPED, PARAMS)


def test_dtypes(lenient):
    low = jax.tree.map(lambda p: p.update(dtype=jnp.bfloat16), PARAMS)
    assert gx.cost(gx.adamw(1e-3), low).floor_per_parameter == pytest.approx(22, abs=1e-3)
    wide = gx.cost(gx.adamw(1e-3), low, grads_dtype=jnp.float32)
    assert wide.floor_per_parameter == pytest.approx(24, abs=1e-3)
    assert gx.cost(optax.adamw(1e-3), low).state_per_parameter == pytest.approx(4, abs=1e-3)


def test_what_update_is_given_besides(lenient):
    given = gx.cost(gx.polyak_sgd(0.1), PARAMS, value=1.0)
    assert given == gx.cost(gx.polyak_sgd(0.1), PARAMS, value=jax.ShapeDtypeStruct((), jnp.float32))
    assert given.floor_per_parameter == pytest.approx(16, abs=1e-3)
    loss = lambda p: jnp.sum(p["w"] ** 2) + jnp.sum(p["b"])
    search = gx.cost(gx.lbfgs(memory_size=2), PARAMS, value=1.0, grad=PARAMS, value_fn=loss)
    assert search.state_per_parameter > 20
    assert gx.cost(optax.sgd(0.1), PARAMS, value=1.0) == gx.cost(optax.sgd(0.1), PARAMS)
    with pytest.raises(TypeError, match="needs 'value'"):
        gx.cost(gx.polyak_sgd(0.1), PARAMS)


SMALL = gx.Cost("cuda", "a <GPU>", 1000, 3, 40_000, 28_000, 500, 8004, 1234, 0.5, 0.25, 10.0)


def test_a_cost_is_a_value():
    assert dataclasses.replace(SMALL, compile_seconds=3.0) == SMALL
    assert dataclasses.replace(SMALL, moved_bytes=3) != SMALL
    with pytest.raises(dataclasses.FrozenInstanceError):
        SMALL.kernels = 3


def test_a_cost_as_a_dict():
    expected = {
        "platform": "cuda",
        "device": "a <GPU>",
        "parameters": 1000,
        "leaves": 3,
        "moved_bytes": 40_000,
        "floor_bytes": 28_000,
        "temporary_bytes": 500,
        "state_bytes": 8004,
        "kernels": 1234,
        "trace_seconds": 0.5,
        "lower_seconds": 0.25,
        "compile_seconds": 10.0,
        "moved_per_parameter": 40.0,
        "floor_per_parameter": 28.0,
        "temporary_per_parameter": 0.5,
        "state_per_parameter": 8.004,
    }
    assert SMALL.asdict() == expected
    assert json.loads(json.dumps(gx.cost(gx.sgd(0.1), PARAMS).asdict())).keys() == expected.keys()


def test_a_cost_as_a_table():
    lines = str(SMALL).splitlines()
    assert lines[0] == "compiled for            a <GPU>"
    assert lines[3] == "moved, B/parameter        40.00"
    assert lines[-1] == "compile, s                10.00"
    both = str(gx.Costs(one=SMALL, another=SMALL)).splitlines()
    assert both[0] == "                            one  another"
    assert both[8] == "kernels                   1,234    1,234"
    assert len(both) == len(lines) + 1


def test_a_cost_in_a_notebook():
    assert repr(SMALL) == str(SMALL) == str(gx.Costs({"": SMALL})) == repr(gx.Costs({"": SMALL}))
    page = gx.Costs({"a & b": SMALL})._repr_html_()
    assert page.startswith("<table><tr><th></th><th>a &amp; b</th></tr>")
    assert "<tr><th>compiled for</th><td>a &lt;GPU&gt;</td></tr>" in page
    assert page.count("<tr>") == page.count("</tr>") == 12
    assert "<td>a &lt;GPU&gt;</td>" in SMALL._repr_html_()


def test_what_cannot_be_costed():
    with pytest.raises(ValueError, match="platform must be None, 'cpu', 'cuda' or 'tpu', got 'gpu'"):
        gx.cost(gx.sgd(0.1), PARAMS, platform="gpu")
    for nothing in ({}, None, {"w": None}, jax.ShapeDtypeStruct((0, 3), jnp.float32)):
        with pytest.raises(ValueError, match="params holds no parameters: give arrays, or ShapeDtypeStructs"):
            gx.cost(gx.sgd(0.1), nothing)
    with pytest.raises(TypeError, match=r"tx of cost is not a gradient transformation: .* \(call it"):
        gx.cost(gx.sgd, PARAMS)
    with pytest.raises(TypeError, match="params must hold arrays, or objects with a shape and a dtype"):
        gx.cost(gx.sgd(0.1), {"w": "weights"})


@pytest.mark.parametrize(("platform", "extra"), [("tpu", "tpu"), ("cuda", "cuda12-local")])
def test_a_compiler_that_is_missing(platform, extra, monkeypatch):
    as_without_plugin = mock.Mock(side_effect=RuntimeError("Unknown backend"))  # it may be installed here
    monkeypatch.setattr(targets, "get_topology_desc", as_without_plugin)
    before = dict(os.environ)
    with pytest.raises(ImportError, match=rf"'{platform}' needs its compiler: pip install 'jax\[{extra}\]=="):
        gx.cost(gx.sgd(0.1), PARAMS, platform=platform)
    assert os.environ == before


def test_kernels_of_a_program():
    """Fusions and copies, once if they are in two halves; not what only renames, nor what they call."""
    hlo = """HloModule m

%inner (x: f32[9]) -> f32[9] {
  ROOT %y = f32[9]{0} negate(%x)
}

ENTRY %main (a: f32[8,4], b: bf16[8,4]) -> (f32[8,4], pred[]) {
  %a = f32[8,4]{1,0:T(8,128)} parameter(0)
  %b = bf16[8,4]{1,0} parameter(1), metadata={op_name="b"}
  %two.1 = (f32[8,4]{1,0}, /*index=1*/pred[]) fusion(%a, %b), kind=kLoop, calls=%inner
  %c = f32[8,4]{1,0} get-tuple-element(%two.1), index=0
  %d = pred[] get-tuple-element(%two.1), index=1
  %copy-start.2 = (f32[8,4]{1,0:T(8,128)S(1)}, u32[]) copy-start(%c)
  %copy-done.2 = f32[8,4]{1,0} copy-done(%copy-start.2)
  ROOT %t = (f32[8,4]{1,0}, pred[]) tuple(%copy-done.2, %d)
}
"""
    assert targets.kernels(hlo) == [("two.1", 128 + 1 + 128 + 64), ("copy-start.2", 128 + 4 + 128)]
    sizes = [("f8e4m3fn", "4", 4), ("u4", "3", 2), ("pred", "", 1), ("c128", "2,3", 96), ("token", "", 0)]
    for dtype, shape, size in sizes:
        assert targets.array_bytes(dtype, shape) == size


def needs(package):
    """The compilers are 1 GB, so an extra: `make test-targets` installs them and skips nothing."""
    installed = importlib.util.find_spec(package) is not None
    return pytest.mark.skipif(not installed, reason=f"{package} is not installed: make test-targets")


@needs("jax_cuda12_plugin")
@pytest.mark.parametrize(
    ("make", "most_bytes", "most_kernels"),
    [
        (lambda m: m.adamw(1e-3), 28.01, 150),
        (lambda m: m.chain(m.clip_by_global_norm(1.0), m.adamw(1e-3)), 32.01, 355),
        (lambda m: m.lamb(1e-3, weight_decay=0.01), 40.02, 400),
    ],
    ids=["adamw", "clip+adamw", "lamb"],
)
def test_gpt2_on_an_h100(make, most_bytes, most_kernels, lenient):
    """What is moved is the floor."""
    found = gx.cost(make(gx), trees.gpt2(), platform="cuda")
    assert found.device == "NVIDIA H100 80GB HBM3"
    assert found.floor_per_parameter - 0.01 <= found.moved_per_parameter <= most_bytes
    assert found.moved_per_parameter == pytest.approx(found.floor_per_parameter, abs=0.02)
    assert found.kernels <= most_kernels
    assert found.temporary_per_parameter <= 0.1


@needs("jax_cuda12_plugin")
def test_what_lamb_of_optax_costs_on_an_h100(lenient):
    theirs = gx.cost(optax.lamb(1e-3, weight_decay=0.01), trees.gpt2(), platform="cuda")
    assert theirs.moved_per_parameter == pytest.approx(48, abs=0.02)
    assert theirs.kernels > 700


@needs("jax_cuda12_plugin")
@pytest.mark.parametrize(
    ("policy", "most_bytes", "most_temporary", "most_kernels_a_leaf"),
    [("bf16-stochastic", 14.1, 0.05, 1.2), ("split", 24.1, 0.05, 1.1), ("8-bit", 18.0, 0.3, 4.0)],
)
def test_low_precision_on_an_h100(policy, most_bytes, most_temporary, most_kernels_a_leaf, lenient):
    """16 bits at the floor, in one kernel for each array; 8-bit blocks are read twice, for scales first."""
    shapes = trees.gpt2(dtype=jnp.bfloat16)
    found = gx.cost(gx.precision(gx.adamw(1e-3), policy), shapes, platform="cuda")
    assert found.moved_per_parameter <= most_bytes
    assert found.temporary_per_parameter <= most_temporary
    assert found.kernels <= most_kernels_a_leaf * found.leaves


@needs("libtpu")
def test_lamb_on_a_v5e_moves_half_of_optax(lenient):
    before = dict(os.environ)
    ours, theirs = (
        gx.cost(m.lamb(1e-3, weight_decay=0.01), trees.gpt2(), platform="tpu") for m in (gx, optax)
    )
    assert ours.device == "TPU v5 lite"
    assert ours.moved_bytes <= 0.5 * theirs.moved_bytes
    assert os.environ == before


@needs("libtpu")
@pytest.mark.parametrize(
    ("name", "layout", "most_arguments", "most_temporary", "collectives"),
    [
        ("AdamW", "fully sharded", 12 / 8, 0.01, set()),
        (
            "LAMB",
            "fully sharded",
            12 / 8,
            0.01,
            {"all-reduce", "all-gather"},
        ),  # of norms; of two small arrays
        ("AdamW", "ZeRO-1 over data, tensors over model", 4 / 4 + 8 / 8, 0.51, {"all-gather"}),
    ],
)
def test_7b_parameters_on_a_slice_of_eight(name, layout, most_arguments, most_temporary, collectives):
    """Each chip holds its part, and is sent no more than norms, or the new parameters."""
    params = trees.llama_7b(jnp.bfloat16)
    count = sum(p.size for p in jax.tree.leaves(params))
    mesh = Mesh(np.array(targets.tpu_slice("v5e:2x4")).reshape(2, 4), ("data", "model"))
    found = scale.chip(scale.OPTIMIZERS[name], params, mesh, scale.LAYOUTS[layout])
    assert found.arguments / count <= 1.01 * most_arguments
    assert found.temporaries / count <= most_temporary
    assert found.collectives.keys() == collectives


@needs("libtpu")
def test_zero_1_scatters_the_sum_of_each_gradient():
    """On a TPU each device is sent its part of the gradients only, and all of the new parameters."""
    mesh = Mesh(np.array(targets.tpu_slice("v5e:2x4")), ("data",))
    whole, tx = NamedSharding(mesh, PartitionSpec()), gx.adamw(1e-3)
    params = {f"w{i}": jax.ShapeDtypeStruct((1024, 1024), jnp.float32, sharding=whole) for i in range(4)}
    parts = gx.state_sharding(tx, params, whole, zero_axis="data")
    state = jax.tree.map(lambda x, at: x.update(sharding=at), jax.eval_shape(tx.init, params), parts)
    rows = jax.ShapeDtypeStruct((512, 1024), jnp.float32, sharding=NamedSharding(mesh, PartitionSpec("data")))

    def step(params, state, x):
        loss = lambda params: jnp.mean(
            functools.reduce(lambda x, w: jnp.tanh(x @ w), params.values(), x) ** 2
        )
        updates, state = tx.update(jax.grad(loss)(params), state, params)
        return gx.apply_updates(params, updates), state

    step = jax.jit(step, donate_argnums=(0, 1), out_shardings=(whole, parts))
    program = step.lower(params, state, rows).compile().as_text()
    within = re.findall(r"^%all-reduce-scatter[.\d]* \(", program, re.MULTILINE)
    assert len(re.findall(r" all-reduce\(", program)) == len(within) > 0


def test_the_table_in_the_guide_is_what_is_printed(lenient):
    guide = (pathlib.Path(gx.__file__).parent.parent / "docs" / "guides" / "cost.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", guide, re.DOTALL)
    namespace = {"jax": jax, "jnp": jnp, "gx": gx}
    exec(next(block for block in blocks if "gx.Costs(" in block), namespace)
    for line in str(namespace["costs"]).splitlines()[:8]:  # up to the kernels
        assert f"\n{line}\n" in guide
