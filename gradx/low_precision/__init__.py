"""Optimizers in fewer bytes: stored slots, rounded parameters, and policies that combine them."""
