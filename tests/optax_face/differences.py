"""Differences from Optax on purpose, and what the fuzz test leaves out for each."""

from collections.abc import Callable
from typing import NamedTuple

import optax

import gradx.optax
from tests.optax_face.examples import Example
from tests.optax_face.vocabulary import ALIASES, LINKS

# In these Optax's own code runs, in 16 bits where the parameters have them.
WORDS = [*ALIASES, *LINKS, "lookahead", "flatten"]
THEIRS = [f"optax.{x}(" for x in WORDS if getattr(gradx.optax, x) is getattr(optax, x)]


class Difference(NamedTuple):
    """The reason, and the examples in which the face refuses or differs."""

    reason: str
    leaves_out: Callable[[Example], bool] = lambda example: False


DIFFERENCES = {
    "16 bits": Difference(
        "rules and slots are in float32: Optax is given float32, but for what is Optax's own in both",
        lambda e: e.is_half and (e.searches or any(word in e.tx for word in THEIRS)),
    ),
    "injected hyperparameters": Difference(
        "they are float32; Optax's have the parameters' dtype, or a schedule's: dtypes are not compared"
    ),
    "squares of complex numbers": Difference(
        "slots that hold them are real; Optax's have an imaginary part of 0: only the precision is compared. "
        "Its adadelta takes g² for |g|²",
        lambda e: e.dtype == "complex64" and "adadelta(" in e.tx,
    ),
    "a real dtype for slots of complex parameters": Difference(
        "TypeError, also for the default of MultiSteps: Optax drops the imaginary part",
        lambda e: e.dtype == "complex64" and ("MultiSteps(" in e.tx or "=jnp.float32" in e.tx),
    ),
    "noise of float64 gradients after MultiSteps": Difference(
        "drawn in float64; Optax's link sees the accumulator's float32, and draws other numbers",
        lambda e: e.dtype == "float64" and "MultiSteps(" in e.tx and "nois" in e.tx,
    ),
    "the dtype of updates under x64": Difference(
        "gradx: the gradients' dtype. In Optax some schedules turn it to float64, and some slots to float32"
    ),
    "results that rounding decides": Difference(
        "such as a variance of equal numbers: not compared if Optax differs when gradients change by 2e-7, "
        "or if the same example agrees in float64"
    ),
    "NaN and inf in Optax": Difference(
        "gradx stays finite where it can: at the end of a polynomial_schedule of power 0.5, say. Not compared"
    ),
    "the norm of no gradients": Difference("float32; Optax's is float64 under x64: dtypes are not compared"),
}


def left_out(example: Example) -> bool:
    return any(difference.leaves_out(example) for difference in DIFFERENCES.values())
