"""What is compared: both models, their config, weights and probe."""
