"""Look into states, keep them on disk, and carry them over to other transformations."""
