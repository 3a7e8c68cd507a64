"""Training: configuration, optimizers, schedules, the loop, evaluation, the run directory, checkpoints."""
