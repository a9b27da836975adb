"""Small made-up trees in the layout of the benchmarks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import scipy.io

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
    "APY": "/BS/xian/work/data/apascal/JPEGImages/",
}
FOLDERS = {
    "CUB": "CUB/CUB_200_2011/images",
    "SUN": "SUN/images",
    "AWA2": "AWA2/Animals_with_Attributes2/JPEGImages",
    "AWA1": "AWA1/Animals_with_Attributes/JPEGImages",
    "APY": "APY/VOCdevkit/VOC2008/JPEGImages",
}


def cells(strings: list[str]) -> np.ndarray:
    result = np.empty((len(strings), 1), object)
    result[:, 0] = strings
    return result


def column(values: Any) -> np.ndarray:
    return np.asarray(values, float)[:, None]


def write_tree(root: Path, name: str) -> list[Path]:
    """Splits, word vectors and pictures as the published code expects them; the pictures."""
    splits = root / "xlsa17" / "data" / name
    splits.mkdir(parents=True)
    locations = {k: column(v) for k, v in SPLITS.items()}
    scipy.io.savemat(
        splits / "att_splits.mat", {"att": ATT, "allclasses_names": cells(CLASSES), **locations}
    )
    below = [f"{CLASSES[k - 1]}/{i}.jpg" for i, k in enumerate(LABELS, 1)]
    scipy.io.savemat(
        splits / "res101.mat",
        {"image_files": cells([PREFIXES[name] + b for b in below]), "labels": column(LABELS)},
    )
    (root / "w2v").mkdir(exist_ok=True)
    WORDS.dump(root / "w2v" / f"{name}_attribute.pkl")
    files = [root / FOLDERS[name] / b for b in below]
    for i, file in enumerate(files):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(f"picture {i}".encode())
    return files
