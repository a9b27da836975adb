"""Random numbers by counting: known answers, and the same as those of JAX."""

from __future__ import annotations

import jax
import jax.extend.random
import jax.numpy as jnp
import numpy as np
import pytest

from dedn_jax.data.threefry import threefry


@pytest.mark.parametrize(
    ("key", "counter", "answer"),
    [  # the known answers of Random123, the authors' own code
        ((0, 0), (0, 0), (0x6B200159, 0x99BA4EFE)),
        ((2**32 - 1, 2**32 - 1), (2**32 - 1, 2**32 - 1), (0x1CB996FC, 0xBB002BE7)),
        ((0x13198A2E, 0x03707344), (0x243F6A88, 0x85A308D3), (0xC4923A9C, 0x483DF7A0)),
    ],
)
def test_known_answers(
    key: tuple[int, int], counter: tuple[int, int], answer: tuple[int, int]
) -> None:
    first, second = np.asarray(counter, np.uint32)[:, None]
    x, y = threefry(np.asarray(key, np.uint32), first, second)
    assert (x.tolist(), y.tolist()) == ([answer[0]], [answer[1]])
    assert x.dtype == y.dtype == np.uint32


@pytest.mark.filterwarnings("error")  # NumPy warns where it means an overflow to be an error
def test_numpy_and_jax_agree_with_jax_random() -> None:
    rng = np.random.default_rng(0)
    for _ in range(3):
        key, *words = (rng.integers(0, 2**32, n, np.uint32) for n in (2, 100, 100))
        host = threefry(key, *words)
        device = jax.jit(threefry)(*map(jnp.asarray, (key, *words)))
        np.testing.assert_array_equal(np.stack(host), np.stack(device))
        theirs = jax.extend.random.threefry_2x32(jnp.asarray(key), np.concatenate(words))
        np.testing.assert_array_equal(np.concatenate(host), theirs)


def test_broadcasts() -> None:
    key = np.asarray([5, 6], np.uint32)
    steps, counters = np.arange(3, dtype=np.uint32)[:, None], np.arange(4, dtype=np.uint32)
    x, y = threefry(key, steps, counters)
    assert x.shape == y.shape == (3, 4)
    one, _ = threefry(key, steps[2], counters)
    np.testing.assert_array_equal(x[2], one)
