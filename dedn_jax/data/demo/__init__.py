"""The built-in demo set: drawn creatures made of parts, and a fixed filter bank for features."""

from dedn_jax.data.demo.filterbank import filter_bank
from dedn_jax.data.demo.pictures import DemoPictures, demo_pictures

__all__ = ["DemoPictures", "demo_pictures", "filter_bank"]
