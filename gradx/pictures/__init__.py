"""Pictures, each in a file of its own; `gradx.plot` has all of them."""
