"""Bytes by slot, dtype and part: sums that are the state's, and the table as it is printed."""

import json
import re

import jax
import jax.numpy as jnp
import optax
import pytest

import gradx as gx
from tests.problems import params
from tests.test_contract import ALL
from tests.trees import gpt2

MODEL = {
    "body": jax.ShapeDtypeStruct((1000, 1000), jnp.float32),
    "head": jax.ShapeDtypeStruct((1000,), jnp.float32),
}


@pytest.mark.parametrize("tx", ALL, ids=repr)
def test_the_total_is_the_bytes_of_the_state(tx, lenient):
    found = gx.summarize(tx, params())
    state = jax.eval_shape(tx.init, params())
    assert found.bytes == sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(state))
    assert found.parameters == 17
    assert found.bytes_per_parameter == found.bytes / 17


def test_rows_are_by_slot_dtype_and_group():
    tx = optax.partition(
        {"adam": gx.adam(0.1, mu_dtype=jnp.bfloat16), "sgd": gx.sgd(0.1, momentum=0.9)}, labels
    )
    rows = [(r.slot, r.part, r.dtype, r.arrays, r.bytes) for r in gx.summarize(tx, MODEL).rows]
    assert rows == [
        ("count", "adam", "int32", 1, 4),
        ("mu", "adam", "bfloat16", 1, 2_000_000),
        ("nu", "adam", "float32", 1, 4_000_000),
        ("trace", "sgd", "float32", 1, 4_000),
    ]


def labels(params):
    return {"body": "adam", "head": "sgd"}


def test_packed_slots_are_counted_one_by_one():
    plain, packed = (gx.summarize(tx, gpt2()) for tx in (gx.adamw(1e-3), gx.packed(gx.adamw(1e-3))))
    assert plain == packed
    assert round(plain.bytes_per_parameter, 6) == 8.0


def test_it_prints_as_a_table_and_is_a_dict():
    tx = gx.named_chain(("clip", gx.clip(1.0)), ("adam", gx.adam(1e-3)))
    found = gx.summarize(tx, MODEL)
    assert str(found) == "\n".join(
        [
            "slot   part  dtype    arrays      bytes  B/parameter",
            "count  adam  int32         1          4         0.00",
            "mu     adam  float32       2  4,004,000         4.00",
            "nu     adam  float32       2  4,004,000         4.00",
            "total                      5  8,008,004         8.00",
        ]
    )
    assert repr(found) == str(found)
    html = found._repr_html_()
    assert html.count("<tr>") == 5
    assert "<td>mu</td><td>adam</td><td>float32</td><td>2</td><td>4,004,000</td><td>4.00</td>" in html
    known = json.loads(json.dumps(found.asdict()))
    assert (known["bytes"], known["parameters"]) == (8_008_004, 1_001_000)
    assert known["rows"][1] == {
        "slot": "mu",
        "part": "adam",
        "dtype": "float32",
        "format": "",
        "arrays": 2,
        "bytes": 4_004_000,
    }


def test_errors():
    with pytest.raises(ValueError, match=re.escape("summarize: params holds no parameters")):
        gx.summarize(gx.adam(0.1), {})
    with pytest.raises(TypeError, match="tx of summarize is not a gradient transformation"):
        gx.summarize(gx.adam, MODEL)
