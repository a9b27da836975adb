"""Small made-up trees in the layout of the benchmarks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import scipy.io
from PIL import Image

# Five classes with three pictures each; class 5 is unseen. 1-based, as in the files.
LABELS = np.repeat(np.arange(1, 6), 3)
SPLITS = {
    "trainval_loc": [1, 2, 4, 5, 7, 8, 11, 10],
    "test_seen_loc": [3, 6, 9, 12],
    "test_unseen_loc": [15, 13, 14],
}
CLASSES = ["ox", "grizzly+bear", "bat", "cow", "rat"]
ATT = np.linspace(-0.1, 1, 15).reshape(3, 5)
WORDS = np.arange(12.0).reshape(3, 4)
PREFIXES = {
    "CUB": "/BS/xian/work/cvpr16/code/mypackage/cub/CUB_200_2011/images/",
    "SUN": "/BS/Deep_Fragments/work/MSc/data/SUN/images/",
    "AWA2": "/BS/xian17/work/data/Animals_with_Attributes2//JPEGImages/",
    "AWA1": "/BS/xian17/work/data/Animals_with_Attributes/JPEGImages/",
}
FOLDERS = {
    "CUB": "CUB/CUB_200_2011/images",
    "SUN": "SUN/images",
    "AWA2": "AWA2/Animals_with_Attributes2/JPEGImages",
    "AWA1": "AWA1/Animals_with_Attributes/JPEGImages",
}


def cells(strings: list[str]) -> np.ndarray:
    result = np.empty((len(strings), 1), object)
    result[:, 0] = strings
    return result


def column(values: Any) -> np.ndarray:
    return np.asarray(values, float)[:, None]


def write_tree(root: Path, name: str) -> list[Path]:
    """Splits, word vectors and pictures as the published code expects them; the pictures."""
    below = [f"{CLASSES[k - 1]}/{i}.jpg" for i, k in enumerate(LABELS, 1)]
    _write_splits(root, name, [PREFIXES[name] + b for b in below])
    (root / "w2v").mkdir(exist_ok=True)
    WORDS.dump(root / "w2v" / f"{name}_attribute.pkl")
    files = [root / FOLDERS[name] / b for b in below]
    for i, file in enumerate(files):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(f"picture {i}".encode())
    return files


def _write_splits(root: Path, name: str, image_files: list[str], **changes: Any) -> None:
    splits = root / "xlsa17" / "data" / name
    splits.mkdir(parents=True)
    locations = {k: column(v) for k, v in SPLITS.items()}
    fields = {"att": ATT, "allclasses_names": cells(CLASSES), **locations, **changes}
    there = {key: value for key, value in fields.items() if value is not None}
    scipy.io.savemat(splits / "att_splits.mat", there)
    scipy.io.savemat(
        splits / "res101.mat", {"image_files": cells(image_files), "labels": column(LABELS)}
    )


# --- aPY: several objects in a picture ----------------------------------------------------------

WIDTH, HEIGHT = 80, 60
# Of each entry, as in the annotation files: xmin, ymin, xmax, ymax, from 1, both in the box.
BOXES = [(1, 1, 40, 60), (41, 11, 80, 50)] * 6 + [(1, 1, 80, 60), (-2, 0, 50, 61), (21, 1, 81, 40)]
APY_FILES = {"apascal_train.txt": range(6), "apascal_test.txt": range(6, 12)}
APY_FILES["ayahoo_test.txt"] = range(12, 15)


def write_apy(root: Path, boxes: list[tuple[int, int, int, int]] = BOXES) -> list[Path]:
    """aPY's tree: six pictures of aPascal with two objects each, three of aYahoo with one.

    Returns:
      The picture file of each entry.
    """
    voc = [f"VOCdevkit/VOC2008/JPEGImages/2008_{i // 2:06d}.jpg" for i in range(12)]
    below = [*voc, *(f"ayahoo_test_images/rat_{i}.jpg" for i in range(12, 15))]
    _write_splits(root, "APY", [f"/BS/Deep_Fragments/work/MSc/data/aPY/{b}" for b in below])
    (root / "w2v").mkdir(exist_ok=True)
    WORDS.dump(root / "w2v" / "APY_attribute.pkl")
    files = [root / "APY" / b for b in below]
    for file in dict.fromkeys(files):
        write_noise(file, WIDTH, HEIGHT)
    annotations = root / "APY" / "attribute_data"
    annotations.mkdir()
    for name, entries in APY_FILES.items():
        lines = [
            " ".join(map(str, (files[i].name, CLASSES[LABELS[i] - 1], *boxes[i], *[0, 1] * 32)))
            for i in entries
        ]
        (annotations / name).write_text("\n".join(lines) + "\n")
    return files


# --- FLO: sentences ------------------------------------------------------------------------------

SENTENCES = np.random.default_rng(5).normal(0.02, 0.1, (7, 5))


def write_flo(root: Path) -> list[Path]:
    """FLO's tree: no class names, no attributes, all pictures in one folder; the pictures."""
    names = [f"image_{i:05d}.jpg" for i in range(1, 16)]
    prefix = "/BS/Deep_Fragments/work/MSc/data/Oxford102/jpg/"
    _write_splits(root, "FLO", [prefix + n for n in names], att=SENTENCES, allclasses_names=None)
    files = [root / "FLO" / "jpg" / n for n in names]
    for file in files:
        write_noise(file, 48, 40)
    return files


def write_sentences(path: Path, **changes: Any) -> Path:
    """`sent_splits.mat` of the five classes, with the fields of `att_splits.mat`."""
    locations = {k: column(v) for k, v in SPLITS.items()}
    fields = {"att": SENTENCES, "allclasses_names": cells(CLASSES), **locations, **changes}
    scipy.io.savemat(path, {key: value for key, value in fields.items() if value is not None})
    return path


def write_noise(file: Path, width: int, height: int) -> None:
    """A JPEG of noise, which its name seeds."""
    file.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(list(file.name.encode()))
    Image.fromarray(rng.integers(0, 256, (height, width, 3), np.uint8)).save(file, "JPEG")
