"""Feature maps that stay on the devices, and the batches drawn from them there."""
