"""Training one fold model: options, objective, schedule, the training loop, and the final predictions."""
