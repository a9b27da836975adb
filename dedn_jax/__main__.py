"""`python -m dedn_jax` is the `dedn` command."""

import sys

from dedn_jax.cli import main

sys.exit(main())
