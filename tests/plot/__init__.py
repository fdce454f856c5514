"""What is drawn, number by number, and that it can be told apart without colour."""
