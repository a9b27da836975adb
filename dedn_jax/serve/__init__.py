"""A page to try a run on: drop a picture, see why it gets its class, design a new class."""
