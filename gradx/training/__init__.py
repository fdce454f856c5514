"""What a training loop needs around its transformation."""
