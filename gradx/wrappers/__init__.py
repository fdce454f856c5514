"""Around a whole optimizer."""
