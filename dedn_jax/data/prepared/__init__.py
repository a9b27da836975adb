"""The prepared set: pictures and annotations in ArrayRecord files."""
