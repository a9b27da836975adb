"""The jobs of the `dedn` command: flags in, a library call, its result printed."""
