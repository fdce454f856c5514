"""Parameters and state on many devices."""
