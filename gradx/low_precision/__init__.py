"""Optimizers that work in fewer bytes: stored slots, and policies that choose them."""
