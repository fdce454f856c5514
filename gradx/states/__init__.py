"""Look into states, keep them, carry them over."""
