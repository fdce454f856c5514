"""gradx.keras, where Keras is not installed; tests/parity compares it with Keras itself."""

import inspect
import pickle
import re

import jax.numpy as jnp
import numpy as np
import pytest

import gradx as gx

each = pytest.mark.parametrize("name", gx.keras.__all__)
P, G = {"w": jnp.array([1.0, -2.0])}, {"w": jnp.array([3.0, 4.0])}


def first(tx, g=G):
    return tx.update(g, tx.init(P), P)[0]["w"]


@each
def test_all_have_the_clips_and_the_decay(name):
    """With Keras's defaults: none, but in AdamW."""
    signature = inspect.signature(getattr(gx.keras, name)).parameters
    around = ["weight_decay", "clipnorm", "clipvalue", "global_clipnorm"]
    assert [signature[x].default for x in around] == [0.004 if name == "AdamW" else None, None, None, None]
    assert list(signature)[-3:] == around[1:]


@each
@pytest.mark.parametrize(
    ("clip", "clipped"),
    [
        ({"clipnorm": 0.5}, [0.3, 0.4]),
        ({"clipvalue": 3.5}, [3.0, 3.5]),
        ({"global_clipnorm": 0.5}, [0.3, 0.4]),
    ],
    ids=str,
)
def test_a_clip_comes_before_the_rule(name, clip, clipped):
    """The step is that for the clipped gradient."""
    make = getattr(gx.keras, name)
    np.testing.assert_allclose(first(make(**clip)), first(make(), {"w": jnp.array(clipped)}), rtol=1e-6)


@pytest.mark.parametrize("name", sorted({*gx.keras.__all__} - {"Lamb", "Adafactor"}))
def test_the_decay_is_decoupled(name):
    """0.1 * 0.5 of the parameter beside the rule's step; in Lamb and Adafactor it changes that step too."""
    make = getattr(gx.keras, name)
    decayed, plain = (first(make(0.1, weight_decay=decay)) for decay in (0.5, 0.0))
    np.testing.assert_allclose(decayed - plain, -0.05 * P["w"], rtol=1e-5)


@each
def test_they_are_known_by_their_call(name):
    make = getattr(gx.keras, name)
    tx = make(0.5, clipnorm=1.0)
    assert repr(tx) == f"{name}(learning_rate=0.5, clipnorm=1.0)"
    assert tx == make(learning_rate=0.5, clipnorm=1.0) == pickle.loads(pickle.dumps(tx)) != make(0.5)


@each
def test_two_clips_are_refused(name):
    text = "gradx.keras: give only one of clipnorm, clipvalue and global_clipnorm"
    with pytest.raises(ValueError, match=re.escape(text)):
        getattr(gx.keras, name)(clipnorm=1.0, global_clipnorm=1.0)
