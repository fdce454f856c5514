"""Which parameters a transformation is applied to."""
