"""The contract of a transformation; chains, hyperparameters, trees."""
