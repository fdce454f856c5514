"""Tools of a training loop, around its transformation."""
