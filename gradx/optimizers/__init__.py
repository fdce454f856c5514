"""Optimizers, one file for each paper."""
