"""A rule on one array, lifted to a tree."""
