"""Exchange with the published PyTorch code: weights, and running it for comparison."""
