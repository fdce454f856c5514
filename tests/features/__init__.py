"""Probes of four libraries for the table of `tests.comparison`: each gives what a cell says."""
