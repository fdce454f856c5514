"""What explain tells of each parameter, as rows, text and HTML."""

import jax
import jax.numpy as jnp
import optax
import pytest

import gradx as gx
from tests.problems import params
from tests.test_contract import ALL

P = {
    "dense": {
        "kernel": jax.ShapeDtypeStruct((2, 3), jnp.float32),
        "bias": jax.ShapeDtypeStruct((3,), jnp.bfloat16),
    },
    "head": {"kernel": jnp.ones((3, 1))},
    "none": None,
}


def links(tx, p=P):
    """Parameter -> what explain lists for it."""
    found = {}
    for row in gx.explain(tx, p).rows:
        found.setdefault(row.parameter, []).append((row.group, row.link))
    return found


def test_a_table_of_groups():
    tx = gx.chain(
        gx.clip_by_global_norm(1.0),
        gx.groups(
            gx.sgd(0.1, momentum=0.9),
            {"bias$": dict(learning_rate=gx.scaled(0.5), nesterov=True), "^head/": gx.frozen()},
        ),
    )
    assert str(gx.explain(tx, P)) == "\n".join(
        [
            "parameter     shape   dtype     group    link                 hyperparameters",
            "dense/bias    (3,)    bfloat16           clip_by_global_norm  max_norm=1, eps=0",
            "                                bias$    sgd                  learning_rate=0.05, momentum=0.9, "
            "nesterov=True",
            "dense/kernel  (2, 3)  float32            clip_by_global_norm  max_norm=1, eps=0",
            "                                default  sgd                  learning_rate=0.1, momentum=0.9",
            "head/kernel   (3, 1)  float32            clip_by_global_norm  max_norm=1, eps=0",
            "                                ^head/   frozen",
        ]
    )


def test_rows_are_plain():
    rows = gx.explain(gx.groups(gx.sgd(0.1), {"^dense/": dict(learning_rate=0.5)}), P).rows
    assert rows[0] == ("dense/bias", (3,), "bfloat16", "^dense/", "sgd", {"learning_rate": 0.5})
    assert rows[-1] == ("head/kernel", (3, 1), "float32", "default", "sgd", {"learning_rate": 0.1})
    assert len(rows) == 3


def test_html_is_escaped():
    tx = gx.groups(gx.sgd(0.1), {"<b>|bias": gx.adam(0.1, mu_dtype=jnp.bfloat16), "(?<=head/)k": gx.frozen()})
    page = gx.explain(tx, {"head/k": jnp.ones(1), "<b>": jnp.ones(1)})._repr_html_()
    assert page.count(' style="text-align: left"') == page.count("<td") + page.count("<th")
    page = page.replace(' style="text-align: left"', "")
    assert "<tr><td>&lt;b&gt;</td><td>(1,)</td><td>float32</td><td>&lt;b&gt;|bias</td><td>adam</td>" in page
    assert "mu_dtype=bfloat16" in page
    assert "<b>" not in page
    assert page.startswith("<table><tr><th>parameter</th><th>shape</th>")
    assert page.count("<tr>") == 3


def test_masked_links_are_listed_where_they_apply():
    tx = gx.chain(
        gx.freeze({"dense": False, "head": True, "none": None}),
        gx.masked(gx.chain(gx.clip(1.0), optax.scale(2.0)), "matrices_only"),
        gx.add_decayed_weights(0.1, "matrices_only"),
    )
    assert links(tx) == {
        "dense/bias": [("", "")],
        "dense/kernel": [("", "clip"), ("", "scale(...)"), ("", "add_decayed_weights")],
        "head/kernel": [("", "set_to_zero"), ("", "clip"), ("", "scale(...)"), ("", "add_decayed_weights")],
    }


def test_nested_groups_and_wrappers():
    inner = gx.groups(gx.sgd(0.1), {"bias$": gx.frozen()})
    tx = gx.lookahead(gx.groups(gx.packed(gx.adam(0.1)), {"^dense/": inner}), 2)
    assert links(tx) == {
        "dense/bias": [("", "lookahead"), ("^dense/ > bias$", "frozen")],
        "dense/kernel": [("", "lookahead"), ("^dense/ > default", "sgd")],
        "head/kernel": [("", "lookahead"), ("default", "packed"), ("default", "adam")],
    }


def test_a_factory_of_ones_own_shows_its_groups():
    @gx.factory
    def finetuning(rate):
        return gx.groups(gx.sgd(rate), {"^head/": dict(learning_rate=gx.scaled(10))})

    assert links(finetuning(0.1))["head/kernel"] == [("^head/", "sgd")]
    assert gx.explain(finetuning(0.1), P).rows[-1].hyperparameters == {"learning_rate": 1.0}


def test_schedules_and_injections_are_shown_by_their_calls():
    tx = gx.groups(gx.sgd(gx.linear_schedule(1.0, 0.0, 9)), {"^head/": dict(learning_rate=gx.scaled(2.0))})
    text = str(gx.explain(tx, P))
    assert "learning_rate=linear_schedule(1.0, 0.0, 9)" in text
    assert "learning_rate=product_schedule([constant_schedule(2.0), linear_schedule(1.0, 0.0, 9)])" in text
    row = gx.explain(gx.inject_hyperparams(gx.sgd)(0.1), P).rows[0]
    assert (row.link, row.hyperparameters) == ("inject_hyperparams(sgd)", {"learning_rate": 0.1})


def test_partitions_and_transformations_of_others():
    tx = gx.partition(
        {1: optax.adam(0.1), 2: gx.GradientTransformation(*gx.sgd(0.1))}, {"dense": 1, "head": 2, "none": 1}
    )
    assert links(tx) == {
        "dense/bias": [("1", "chain(...)")],
        "dense/kernel": [("1", "chain(...)")],
        "head/kernel": [("2", "chain(...)")],
    }
    assert links(optax.adam(0.1))["dense/bias"] == [("", "chain(...)")]


def test_no_group_no_column():
    assert str(gx.explain(gx.sgd(0.1), jnp.ones(2))).splitlines()[0].split() == [
        "parameter", "shape", "dtype", "link", "hyperparameters"
    ]  # fmt: skip


@pytest.mark.parametrize("tx", ALL, ids=repr)
def test_every_transformation_is_explained(tx, lenient):
    rows = gx.explain(tx, params()).rows
    assert {row.parameter for row in rows} == {"b", "layers/0", "w"}
    assert not any(" at 0x" in line for line in str(gx.explain(tx, params())).splitlines())


def test_mistakes_are_named():
    with pytest.raises(ValueError, match="groups: nothing matches 'bais'"):
        gx.explain(gx.groups(gx.sgd(0.1), {"bais": {}}), P)
    with pytest.raises(
        TypeError, match="explain: params must hold arrays, or objects with a shape and a dtype"
    ):
        gx.explain(gx.sgd(0.1), {"a": "x"})
    with pytest.raises(TypeError, match="tx of explain is not a gradient transformation"):
        gx.explain(gx.sgd, P)
