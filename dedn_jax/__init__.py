"""DEDN, the Dual Expert Distillation Network for generalized zero-shot learning, in JAX."""

__version__ = "0.1.0"
