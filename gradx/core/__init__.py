"""The contract, and how the parts of gradx fit together.

A *transformation* is a pair of pure functions, `init(params) -> state` and
`update(updates, state, params=None, **extra) -> (updates, state)`. Every one is an Optax transformation, and
any of Optax's can stand in its place.

A *link* does one thing to the updates. A *chain* runs links one after the other; its state is the tuple of
theirs. An optimizer is a chain that anybody can read:

    adamw = chain(scale_by_adam(b1, b2, eps), add_decayed_weights(weight_decay), scale_by_learning_rate(rate))

A *wrapper* stands around a whole optimizer and decides when and with what it runs: accumulation, skipping,
groups of parameters, lookahead. Wrappers and links nest in any order.

A *rule* is the formula of a paper, written for one array. `leafwise` of the engine lifts it to a tree: it
counts steps, widens to float32, resolves schedules and passes over parameters without a gradient.

A *factory* is the function that makes any of these. What it makes compares, hashes, prints and pickles by the
call, and to JAX it is a static node of a pytree.

Beside the pair there is one more function, `observe`, which is `update` before its border: updates stay in
float32 from link to link, and reports (a learning rate, a trust ratio) are returned beside them, for
`measured`. `update` gives each update the dtype that it has with Optax. Nothing travels by a side channel: a
value reaches its reader by being returned, by being passed, or as a `jax.make_user_context`, which JAX's
caches compare.
"""
