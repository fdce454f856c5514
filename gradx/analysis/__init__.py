"""What an optimizer is and what a step of it costs."""
