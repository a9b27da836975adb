"""`python -m dedn_jax`: the `dedn` command."""

from dedn_jax.cli.main import console

if __name__ == "__main__":
    console()
