"""What pyproject.toml cannot say: the recipes at the top level, the version, the README without
links into the checkout, which lead nowhere on PyPI."""

import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent
VERSION = re.search(r'__version__ = "(.+)"', (ROOT / "dedn_jax/version.py").read_text())[1]
README = re.sub(
    r"!?\[([^\]]*)\]\((?!https:)[^)]*\)",
    lambda link: "" if link[0].startswith("!") else link[1],
    (ROOT / "README.md").read_text(),
)

setup(
    version=VERSION,
    long_description=README,
    long_description_content_type="text/markdown",
    packages=[
        *find_packages(include=["dedn_jax", "dedn_jax.*"]),
        "dedn_jax.configs",
        "dedn_jax.configs.ablations",
    ],
    package_data={"dedn_jax": ["py.typed"]},
    # The recipes live at the top level of a checkout and travel inside the installed package.
    package_dir={
        "dedn_jax.configs": "configs",
        "dedn_jax.configs.ablations": "configs/ablations",
    },
)
