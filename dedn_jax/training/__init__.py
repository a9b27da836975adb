"""Training: objective, step, loop, protocol, evaluation, selection, checkpoints."""
