"""The contract: what a transformation is, chains of them, hyperparameters, trees."""
