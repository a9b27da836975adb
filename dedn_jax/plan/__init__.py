"""What a training would need on TPUs and GPUs that are not there: `dedn plan`."""
