"""Optax's own tests, with gradx's functions in Optax's place: `python -m tests.optax_suite`."""
