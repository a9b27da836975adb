"""What a training would need on TPU slices that are not there: `dedn plan`."""
