"""Explain an optimizer, and count the cost of its step."""
