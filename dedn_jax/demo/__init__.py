"""The built-in demo set: drawn creatures made of parts."""

from dedn_jax.demo.pictures import DemoPictures, demo_pictures

__all__ = ["DemoPictures", "demo_pictures"]
