"""Which kernel a choice means."""

from __future__ import annotations

import pytest

from dedn_jax.errors import InputError
from dedn_jax.model.kernels import KERNELS, resolve_kernel


def test_resolve_kernel() -> None:
    # Nothing has been measured on an accelerator yet.
    for platform in ("cpu", "gpu", "tpu", "other"):
        xla = platform if platform in ("gpu", "tpu") else "cpu"
        assert [resolve_kernel(c, platform) for c in KERNELS] == [xla, xla, "pallas"]
    with pytest.raises(InputError, match=r"kernel='cuda', expected one of auto, xla, pallas"):
        resolve_kernel("cuda", "gpu")
