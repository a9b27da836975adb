"""A finished run in, something useful out."""
