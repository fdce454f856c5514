"""A run goes on from a checkpoint that an older gradx wrote, with the updates that it would have made."""

import pathlib
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradx as gx
from tests.states.make_checkpoints import MODEL, OPTIMIZERS, PARAMS, next_step

FOLDERS = sorted(pathlib.Path(__file__).parent.glob("checkpoints_*"))
METRICS = ["clip_rate", "gradient_norm", "learning_rate", "parameter_norm", "update_norm"]


def template(name, params):
    """A tree like the `extra` that was saved."""
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape), params)
    made = {"updates": zeros, "evaluated": zeros}
    return made | ({"metrics": dict.fromkeys(METRICS, jnp.float32(0))} if name == "measured" else {})


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda x: x.name)
def test_every_optimizer_has_a_checkpoint(folder):
    assert {x.stem for x in folder.iterdir()} == set(OPTIMIZERS)


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("folder", FOLDERS, ids=lambda x: x.name)
def test_the_next_step_is_the_same(folder, name, tmp_path):
    shutil.unpack_archive(folder / f"{name}.zip", tmp_path)
    tx, params = OPTIMIZERS[name](), PARAMS.get(name, MODEL)
    found = gx.restore_checkpoint(tmp_path, tx, params, extra=template(name, params))
    expected = found.extra
    made = next_step(name, found.params, found.state)
    assert jax.tree.structure(made) == jax.tree.structure(expected)
    # Updates are near 0.1, parameters near 1: 1e-7 is their last bit.
    same = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7)
    jax.tree.map(same, made, expected)
    largest = max(float(jnp.max(jnp.abs(u))) for u in jax.tree.leaves(expected["updates"]))
    assert largest > 0.01
