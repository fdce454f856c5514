"""Names and arguments of other libraries, for code that is carried over."""
