"""Chains and wrappers at random, around each other."""

import inspect
from collections.abc import Callable

import optax
from hypothesis import strategies as st

from tests.optax_face import vocabulary
from tests.optax_face.vocabulary import ALIASES, LINKS, VALUES, Text, call

# No schedules and no numbers to inject: `inject_hyperparams` has to be told.
STATIC = {"mask", "weight_decay_mask", "trust_ratio_mask", "mu_dtype", "accumulator_dtype", "key"}

alias: Text = st.one_of([call(name, VALUES) for name in ALIASES])
link: Text = st.one_of([call(name, VALUES) for name in LINKS])


def injected(text: str) -> str:
    """`optax.adam(0.1)` with its numbers in the state."""
    factory, _, arguments = text.partition("(")
    names = inspect.signature(getattr(optax, factory.removeprefix("optax."))).parameters
    static = sorted(STATIC.intersection(names))
    return f"optax.inject_hyperparams({factory}, static_args={static})({arguments}"


def chained(texts: list[str]) -> str:
    return f"optax.chain({', '.join(texts)})"


def named(texts: list[str]) -> str:
    pairs = [f"({name!r}, {text})" for name, text in zip("abcd", texts, strict=False)]
    return f"optax.named_chain({', '.join(pairs)})"


@st.composite
def several(draw: Callable, inner: Text) -> str:
    """Links before and after."""
    texts = [*draw(st.lists(link, max_size=2)), draw(inner), *draw(st.lists(link, max_size=1))]
    return draw(st.sampled_from([chained, named]))(texts)


@st.composite
def parted(draw: Callable, inner: Text) -> str:
    name = draw(st.sampled_from(["partition", "multi_transform"]))
    return f'optax.{name}({{"a": {draw(inner)}, "b": {draw(inner)}}}, {draw(vocabulary.LABELS)})'


SKIP_LARGE = ", should_skip_update_fn=partial(optax.skip_large_updates, max_squared_norm=5.0)"


@st.composite
def multi(draw: Callable, inner: Text) -> str:
    k = draw(vocabulary.one_of("1", "2", "3", "growing"))
    options = [
        draw(vocabulary.one_of("", ", use_grad_mean=False")),
        draw(vocabulary.one_of("", ", should_skip_update_fn=optax.skip_not_finite", SKIP_LARGE)),
    ]
    return f"optax.MultiSteps({draw(inner)}, {k}{''.join(options)}).gradient_transformation()"


def around(form: str, **texts: Text) -> Callable[[Text], Text]:
    """A wrapper by its code, with random arguments."""

    @st.composite
    def text(draw: Callable, inner: Text) -> str:
        return form.format(inner=draw(inner), **{name: draw(value) for name, value in texts.items()})

    return text


def flattened(inner: Text) -> Text:
    """Without a tree of the mask, which would not fit the one vector."""
    return inner.map(lambda text: f"optax.flatten({text.replace('matrices(params)', 'matrices')})")


TREE = vocabulary.one_of("matrices(params)", "True", "False")
AROUND = {
    "chain": several,
    "partition": parted,
    "MultiSteps": multi,
    "masked": around("optax.masked({inner}, {mask})", mask=vocabulary.one_of("matrices", "matrices(params)")),
    "apply_if_finite": around("optax.apply_if_finite({inner}, {n})", n=st.integers(1, 2).map(str)),
    "conditionally_transform": around(
        "optax.conditionally_transform({inner}, {when})", when=vocabulary.OF_A_STEP
    ),
    "conditionally_mask": around("optax.conditionally_mask({inner}, {when})", when=vocabulary.OF_A_STEP),
    "freeze": around("optax.chain({inner}, optax.freeze({mask}))", mask=TREE),
    "selective_transform": around(
        "optax.selective_transform({inner}, freeze_mask={mask})", mask=st.just("matrices(params)")
    ),
    "flatten": lambda inner: flattened(alias) | flattened(link),
    "with_extra_args_support": around("optax.with_extra_args_support({inner})"),
}
WITH_PAIRS = around(
    "optax.lookahead({inner}, sync_period={k}, slow_step_size={step}, reset_state={reset})",
    k=vocabulary.STEPS,
    step=vocabulary.numbers(0.1, 0.9),
    reset=vocabulary.BOOL,
)


@st.composite
def transformations(draw: Callable, depth: int = 2) -> str:
    """The text of a transformation."""
    if depth == 0 or draw(st.integers(0, 3)) == 0:
        text = draw(st.one_of(alias, alias, link))
        return injected(text) if draw(st.integers(0, 4)) == 0 and text.startswith(INJECTABLE) else text
    return draw(AROUND[draw(st.sampled_from(sorted(AROUND)))](transformations(depth - 1)))


INJECTABLE = tuple(
    f"optax.{name}("
    for name in vocabulary.words(
        "adam adamw adamax adamaxw lamb lion nadam radam rmsprop sgd scale scale_by_adam trace yogi"
    )
)


SEARCHES = st.one_of(
    call("lbfgs", VALUES),
    call("scale_by_lbfgs", VALUES),
    around("optax.chain({inner}, optax.scale_by_backtracking_linesearch(9, store_grad=True))")(
        call("scale_by_lbfgs", VALUES)
    ),
    st.just("optax.lbfgs(linesearch=optax.scale_by_zoom_linesearch(9, initial_guess_strategy='one'))"),
)


@st.composite
def optimizers(draw: Callable) -> str:
    """A transformation; now and then one that has to be outermost.

    Lookahead wants pairs of parameters, and a line search the gradient of its loss.
    """
    kind = draw(st.integers(0, 19))
    return draw(SEARCHES if kind == 0 else WITH_PAIRS(transformations()) if kind < 3 else transformations())
