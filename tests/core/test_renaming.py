"""Old spellings of arguments: accepted with a warning, and then as if the new one had been given."""

import functools
import inspect
import pickle

import jax
import jax.numpy as jnp
import pytest

import gradx as gx

RENAMED = [
    (gx.lamb, "rule", "nvidia", (0.1,)),
    (gx.lars, "rule", "paper", (0.1,)),
    (gx.scale_by_lion, "mode", "smooth", ()),
    (gx.scale_by_amsgrad, "max_over", "raw", ()),
    (gx.amsgrad, "max_over", "paper", (0.1,)),
]
each = pytest.mark.parametrize(
    ("make", "old", "value", "args"), RENAMED, ids=[f.__name__ for f, *_ in RENAMED]
)


def warned(make, old):
    return pytest.warns(DeprecationWarning, match=f"^{make.__name__}: {old}= is the old spelling of variant=")


@each
def test_an_old_spelling_gives_an_equal_object(make, old, value, args):
    new = make(*args, variant=value)
    with warned(make, old) as record:
        tx = make(*args, **{old: value})
    assert record[0].filename == __file__
    assert tx == new
    assert hash(tx) == hash(new)
    assert repr(tx) == repr(new)
    assert f"variant={value!r}" in repr(tx)
    assert pickle.loads(pickle.dumps(tx)) == new  # without a warning


@each
def test_the_signature_has_the_new_spelling_only(make, old, value, args):
    names = inspect.signature(make).parameters
    assert "variant" in names
    assert old not in names


@each
def test_both_spellings_are_refused(make, old, value, args):
    with pytest.raises(TypeError, match=f"{old}= is the old spelling of variant=, and both are given"):
        make(*args, variant=value, **{old: value})


@each
def test_injection_takes_an_old_spelling(make, old, value, args):
    inject = gx.inject_hyperparams
    with warned(make, old):
        assert inject(make)(*args, **{old: value}) == inject(make)(*args, variant=value)
    with warned(make, old):
        assert inject(make, old).static == {"variant"}
    with warned(make, old):
        tx = inject(functools.partial(make, **{old: value}))(*args)
    assert tx.init(jnp.ones(3))  # and it is not warned of again


@each
def test_groups_take_an_old_spelling(make, old, value, args):
    default = gx.chain(make(*args), gx.scale(2.0))
    with warned(make, old):
        tx = gx.groups(default, {"^a": {old: value}})
    other = gx.groups(default, {"^a": dict(variant=value)})
    x = {"a": jnp.linspace(0.1, 0.2, 4).reshape(2, 2), "b": jnp.ones((2, 2))}
    assert jax.tree.all(
        jax.tree.map(jnp.array_equal, tx.update(x, tx.init(x), x), other.update(x, other.init(x), x))
    )


def test_a_name_that_another_link_has_is_not_translated():
    @gx.factory
    def mine(mode):
        return gx.scale(1.0 if mode == "up" else -1.0)

    tx = gx.groups(gx.chain(gx.scale_by_lion(), mine("up")), {"^a": dict(mode="down")})
    x = {"a": jnp.ones(1), "b": jnp.ones(1)}
    u, _ = tx.update(x, tx.init(x), x)
    assert (u["a"][0], u["b"][0]) == (-1.0, 1.0)
