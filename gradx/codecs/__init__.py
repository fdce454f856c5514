"""Formats that hold an array in fewer bytes."""
