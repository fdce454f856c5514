"""Programs as clients of Optax write them, run with Optax and with `gradx.optax`: `make test-clients`."""
