"""Pictures by index: the same pixels however they are asked for."""

from __future__ import annotations

import io
import multiprocessing
import pickle
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from dedn_jax.config import load_config
from dedn_jax.data.pictures.decoding import decode
from dedn_jax.data.pictures.pictures import Pictures, PictureTransform
from dedn_jax.data.pictures.transforms import standard
from dedn_jax.errors import InputError

COUNT, RESIZE, CROP = 12, 40, 32
PLAIN = PictureTransform(RESIZE, CROP, False, 0.08, 0.5)
AUGMENTED = PictureTransform(RESIZE, CROP, True, 0.08, 0.5)
KEYS = [(7, 0, 3, row) for row in range(COUNT)]


def encoded() -> list[tuple[bytes, str]]:
    """Smooth random pictures of different sizes, some of them higher than wide."""
    rng = np.random.default_rng(0)
    result = []
    for i in range(COUNT):
        coarse = Image.fromarray(rng.integers(0, 256, (5, 6, 3), np.uint8))
        size = (60 + 3 * i, 48) if i % 2 else (45, 50 + 2 * i)
        file = io.BytesIO()
        coarse.resize(size, Image.Resampling.BICUBIC).save(file, "JPEG" if i % 3 else "PNG")
        result.append((file.getvalue(), f"class/{i}.jpg"))
    return result


def make(transform: PictureTransform = PLAIN) -> Pictures:
    return Pictures(encoded(), transform, "d" * 64)


def training(pictures: Pictures, indices: np.ndarray, keys: list) -> np.ndarray:
    return np.stack([pictures.read(i, key) for i, key in zip(indices, keys, strict=True)])


def one_by_one() -> np.ndarray:
    return np.stack([standard(decode(*e), RESIZE, CROP) for e in encoded()])


def test_plain() -> None:
    pictures = make()
    assert len(pictures) == COUNT
    assert pictures.size == CROP
    found = pictures[np.arange(COUNT)]
    assert found.shape == (COUNT, CROP, CROP, 3)
    assert found.dtype == np.uint8
    assert found.flags.c_contiguous and found.flags.writeable
    np.testing.assert_array_equal(found, one_by_one())


@pytest.mark.parametrize("indices", [[], [5], [3, 3, 0, 11, 3], list(range(COUNT))[::-1] * 3])
def test_any_order_and_repeats(indices: list[int]) -> None:
    found = make()[np.asarray(indices, np.int64)]
    assert found.shape == (len(indices), CROP, CROP, 3)
    np.testing.assert_array_equal(found, one_by_one()[indices])


def test_augmentation_depends_on_the_key_alone() -> None:
    pictures = make(AUGMENTED)
    whole = training(pictures, np.arange(COUNT), KEYS)
    assert whole.shape == (COUNT, CROP, CROP, 3)
    assert whole.dtype == np.uint8
    order = np.random.default_rng(1).permutation(COUNT)
    found = training(pictures, order, [KEYS[i] for i in order])
    np.testing.assert_array_equal(found, whole[order])
    with ThreadPoolExecutor(5) as pool:
        found = np.stack(list(pool.map(pictures.read, range(COUNT), KEYS)))
    np.testing.assert_array_equal(found, whole)


def test_a_picture_keeps_no_larger_one_in_memory() -> None:
    for transform in (PLAIN, AUGMENTED):
        for key in (None, KEYS[0]):
            picture = make(transform).read(0, key)
            assert picture.flags.c_contiguous
            held = picture if picture.base is None else picture.base
            assert len(memoryview(held).tobytes()) == CROP * CROP * 3


def test_augmentation_differs_between_keys() -> None:
    same = np.zeros(40, np.int64)
    found = training(make(AUGMENTED), same, [(0, 0, 0, row) for row in range(40)])
    assert len({picture.tobytes() for picture in found}) == 40
    other = training(make(AUGMENTED), same, [(0, 0, 1, row) for row in range(40)])
    assert not any(np.array_equal(a, b) for a, b in zip(found, other, strict=True))


def test_augmentation_can_be_off_and_is_for_training_alone() -> None:
    indices = np.arange(COUNT)
    np.testing.assert_array_equal(training(make(PLAIN), indices, KEYS), one_by_one())
    np.testing.assert_array_equal(make(AUGMENTED)[indices], one_by_one())


def test_flip_probability() -> None:
    always, never = (
        training(
            Pictures(encoded(), PictureTransform(RESIZE, CROP, True, 1.0, p), ""),
            np.arange(COUNT),
            KEYS,
        )
        for p in (1.0, 0.0)
    )
    np.testing.assert_array_equal(always, never[:, :, ::-1])


@pytest.mark.parametrize("used", [False, True])
def test_pickling(used: bool) -> None:
    pictures = make(AUGMENTED)
    if used:
        pictures[np.arange(3)]
    again = pickle.loads(pickle.dumps(pictures))
    assert again.fingerprint() == pictures.fingerprint()
    assert again.transform == pictures.transform
    np.testing.assert_array_equal(again[np.arange(COUNT)], one_by_one())


# JAX warns of forks while other tests' threads are about; the child does not touch JAX.
@pytest.mark.filterwarnings("ignore::RuntimeWarning", "ignore::DeprecationWarning")
@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="no fork here")
def test_forking() -> None:
    pictures = make()
    expected = pictures[np.arange(COUNT)]
    context = multiprocessing.get_context("fork")
    queue = context.SimpleQueue()

    def child() -> None:
        queue.put(bool(np.array_equal(pictures[np.arange(COUNT)], expected)))

    process = context.Process(target=child)
    process.start()
    process.join(30)
    if process.is_alive():
        process.kill()
        pytest.fail("the child hangs")
    assert process.exitcode == 0
    assert queue.get()
    np.testing.assert_array_equal(pictures[np.arange(COUNT)], expected)


def test_shared_between_threads_from_the_first_use() -> None:
    expected = one_by_one()
    for _ in range(20):
        pictures, start = make(), threading.Barrier(4)

        def read(
            _: int, pictures: Pictures = pictures, start: threading.Barrier = start
        ) -> np.ndarray:
            start.wait()
            return pictures[np.arange(3)]

        with ThreadPoolExecutor(4) as pool:
            for found in pool.map(read, range(4)):
                np.testing.assert_array_equal(found, expected[:3])


def test_a_damaged_picture_is_named() -> None:
    files = encoded()
    files[4] = (files[4][0][:200], "class/broken.jpg")
    for transform in (PLAIN, AUGMENTED):
        pictures = Pictures(files, transform, "")
        with pytest.raises(InputError, match=r"class/broken\.jpg: ") as caught:
            training(pictures, np.arange(COUNT), KEYS)
        assert "\n" not in str(caught.value)
        # The others can still be read.
        np.testing.assert_array_equal(pictures[np.asarray([3, 5])], one_by_one()[[3, 5]])


def test_fingerprint_and_config() -> None:
    assert make().fingerprint() == {"pictures": "d" * 64}
    config = load_config("awa2_gzsl")
    transform = PictureTransform.from_config(config)
    assert (transform.resize, transform.crop) == (config.picture.resize, config.picture.crop)
    assert transform.fixed() == {"resize": transform.resize, "crop": transform.crop}
    assert transform.augment is config.picture.augment
