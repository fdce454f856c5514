"""Optax's vocabulary at random: the text of a transformation, for `eval` with Optax or with its face.

An argument has the values that `VALUES` has for its name, or for `factory.argument` where they differ.
"""

import inspect
from collections.abc import Callable

import optax
from hypothesis import strategies as st

Text = st.SearchStrategy[str]


def words(text: str) -> list[str]:
    return text.split()


def numbers(low: float, high: float) -> Text:
    """Decimals of three figures, without tiny ones."""
    return st.floats(low, high).map(lambda x: repr(float(f"{x:.3g}") if abs(x) >= 1e-3 else max(low, 0.0)))


def powers(low: int, high: int) -> Text:
    return st.tuples(st.integers(1, 9), st.integers(low, high)).map(lambda x: f"{x[0]}e{x[1]}")


def one_of(*texts: str) -> Text:
    return st.sampled_from(texts)


STEPS = st.integers(1, 4).map(str)
BEGIN = st.integers(0, 2).map(str)
BOOL = one_of("True", "False")
RATE = numbers(0.001, 1.0)
HEIGHT = numbers(0.1, 1.0)  # of a schedule, which Optax computes in float32 also for float64
BETA = numbers(0.1, 0.99)
EPS = powers(-8, -2)
NONE = st.just("None")
MASK = one_of("matrices", "matrices(params)", "None")
LABELS = one_of("labels", "labels(params)")
SCALES = one_of("{1: 0.5}", "{1: 2.0, 3: 0.1}", "{2: 0.25}")
OF_A_STEP = one_of("even", "late")

SCHEDULE_VALUES = {
    "value": HEIGHT,
    "init_value": HEIGHT,
    "peak_value": HEIGHT,
    "end_value": HEIGHT,
    "alpha": numbers(0.0, 1.0),
    "exponent": numbers(0.5, 2.0),
    "power": numbers(0.5, 3.0),
    "decay_rate": numbers(0.1, 1.5),
    "decay_steps": st.integers(4, 6).map(str),
    "transition_steps": STEPS,
    "transition_begin": BEGIN,
    "warmup_steps": st.integers(1, 3).map(str),
    "pct_start": numbers(0.3, 0.5),
    "pct_final": numbers(0.6, 0.9),
    "div_factor": numbers(2.0, 25.0),
    "final_div_factor": numbers(2.0, 25.0),
    "staircase": BOOL,
    "boundaries_and_scales": SCALES,
    "interpolate_type": one_of("'linear'", "'cosine'"),
    "cosine_onecycle_schedule.transition_steps": st.integers(4, 8).map(str),
    "linear_onecycle_schedule.transition_steps": st.integers(4, 8).map(str),
    "cosine_kwargs": one_of(
        "[dict(init_value=0.1, peak_value=1.0, decay_steps=2, warmup_steps=1, end_value=0.2)] * 2",
        "[dict(init_value=0.0, peak_value=0.5, decay_steps=3, warmup_steps=2)]",
    ),
    "schedules": st.deferred(
        lambda: st.tuples(SCHEDULES, SCHEDULES).map(lambda pair: f"[{', '.join(pair)}]")
    ),
    "boundaries": st.integers(0, 3).map(lambda n: f"[{n}]"),
}

VALUES = {
    "learning_rate": st.deferred(lambda: st.one_of(RATE, SCHEDULES)),
    **dict.fromkeys(["b1", "b2", "b3", "rho", "decay", "beta", "gamma"], BETA),
    **dict.fromkeys(["eps", "eps_root", "min_norm", "min_scale", "decay_rate"], EPS),
    **dict.fromkeys(["nesterov", "centered", "eps_in_sqrt", "bias_correction", "debias"], BOOL),
    **dict.fromkeys(["bias_correction_mu", "bias_correction_nu"], BOOL),
    **dict.fromkeys(["mu_dtype", "accumulator_dtype"], one_of("None", "jnp.float32")),
    **dict.fromkeys(["mask", "weight_decay_mask", "trust_ratio_mask"], MASK),
    "weight_decay": numbers(0.0, 0.3),
    "momentum": st.one_of(NONE, BETA),
    "initial_accumulator_value": RATE,
    "initial_scale": numbers(0.0, 1.0),
    "step_size": numbers(-2.0, 2.0),
    "step_size_fn": st.deferred(lambda: SCHEDULES),
    "trust_coefficient": RATE,
    "max_delta": RATE,
    "max_norm": numbers(0.1, 10.0),
    "threshold": numbers(0.1, 3.0),
    "clipping": numbers(0.01, 1.0),
    "scale_factor": numbers(0.1, 2.0),
    "eta": RATE,
    "key": st.one_of(st.integers(0, 9).map(str), st.just("jax.random.key(3)")),
    "alpha": numbers(0.1, 2.0),
    "optimism": st.one_of(NONE, RATE),
    "mode": one_of("'hard'", "'smooth'", "'refined'"),
    "smooth_beta": numbers(0.5, 2.0),
    "memory_size": st.integers(1, 3).map(str),
    "scale_init_precond": BOOL,
    "max_learning_rate": RATE,
    "scaling": numbers(0.5, 1.5),
    "f_min": numbers(0.0, 0.5),
    "variant": one_of("'sps'", "'sps+'"),
    "flip_sign": BOOL,
    "axis": st.just("None"),
    "k": STEPS,
    "eta_minus": numbers(0.3, 0.7),
    "eta_plus": numbers(1.1, 2.0),
    "min_step_size": powers(-6, -4),
    "max_step_size": numbers(1.0, 50.0),
    "lars.momentum": BETA,
    **dict.fromkeys(["lars.weight_decay_mask", "lars.trust_ratio_mask"], one_of("matrices", "True", "False")),
    "optimistic_adam.learning_rate": RATE,
    "rprop.learning_rate": RATE,
    "scale_by_rprop.learning_rate": RATE,
    "sm3.learning_rate": RATE,
    "sm3.momentum": BETA,
    "adafactor.decay_rate": numbers(0.5, 0.9),
    "scale_by_factored_rms.decay_rate": numbers(0.5, 0.9),
    "min_dim_size_to_factor": one_of("2", "3", "128"),
    "decay_offset": st.just("0"),
    "multiply_by_parameter_scale": BOOL,
    "clipping_threshold": st.one_of(NONE, numbers(0.5, 2.0)),
    "dtype_momentum": st.just("jnp.float32"),
    "weight_decay_rate": st.one_of(NONE, numbers(0.0, 0.1)),
    "factored": BOOL,
    "step_offset": st.just("0"),
    "epsilon": powers(-8, -3),
    "radam.b2": numbers(0.9, 0.999),
    "scale_by_radam.b2": numbers(0.9, 0.999),
    "radam.threshold": numbers(4.5, 6.0),
    "scale_by_radam.threshold": numbers(4.5, 6.0),
}

# Optax documents that these may follow a schedule.
for factory in ("adamw", "adamaxw", "adan", "add_decayed_weights", "lamb", "lion", "nadamw"):
    VALUES[f"{factory}.weight_decay"] = st.one_of(VALUES["weight_decay"], VALUES["learning_rate"])


def call(factory: str, values: dict[str, Text], **always: Text) -> Text:
    """A call with all arguments without a default, and some of the others."""
    parameters = inspect.signature(getattr(optax, factory)).parameters.values()
    given = {
        p.name: always.get(p.name, values.get(f"{factory}.{p.name}", values.get(p.name))) for p in parameters
    }
    missing = [name for name, texts in given.items() if texts is None and name not in LEFT_OUT]
    assert not missing, f"{factory}: give values of {missing} to tests/optax_face/vocabulary.py"
    given = {name: texts for name, texts in given.items() if texts is not None}
    required = {p.name for p in parameters if p.default is p.empty or p.name in always}

    @st.composite
    def texts(draw: Callable) -> str:
        chosen = [name for name in given if name in required or draw(st.booleans())]
        return f"optax.{factory}({', '.join(f'{name}={draw(given[name])}' for name in chosen)})"

    return texts()


LEFT_OUT = {"seed", "linesearch", "decay_rate_fn"}  # a deprecated name; see `searching`

SCHEDULE_NAMES = [
    "constant_schedule",
    "cosine_decay_schedule",
    "cosine_onecycle_schedule",
    "exponential_decay",
    "join_schedules",
    "linear_onecycle_schedule",
    "linear_schedule",
    "piecewise_constant_schedule",
    "piecewise_interpolate_schedule",
    "polynomial_schedule",
    "sgdr_schedule",
    "warmup_constant_schedule",
    "warmup_cosine_decay_schedule",
    "warmup_exponential_decay_schedule",
]
SCHEDULES: Text = st.one_of(st.just("falling"), *[call(name, SCHEDULE_VALUES) for name in SCHEDULE_NAMES])

ALIASES = words("""
    adabelief adadelta adafactor adagrad adam adamax adamaxw adamw adan amsgrad fromage lamb lars lion nadam
    nadamw noisy_sgd novograd optimistic_adam optimistic_adam_v2 optimistic_gradient_descent polyak_sgd radam
    rmsprop rprop sgd sign_sgd signum sm3 yogi
""")
LINKS = words("""
    adaptive_grad_clip add_decayed_weights add_noise apply_every centralize clip clip_by_block_rms
    clip_by_global_norm ema identity keep_params_nonnegative normalize_by_update_norm scale scale_by_adadelta
    scale_by_adam scale_by_adamax scale_by_adan scale_by_amsgrad scale_by_belief scale_by_factored_rms
    scale_by_learning_rate scale_by_lion scale_by_novograd scale_by_optimistic_gradient
    scale_by_param_block_norm scale_by_param_block_rms scale_by_polyak scale_by_radam scale_by_rms
    scale_by_rprop scale_by_rss scale_by_schedule scale_by_sign scale_by_sm3 scale_by_stddev
    scale_by_trust_ratio scale_by_yogi set_to_zero trace zero_nans
""")
