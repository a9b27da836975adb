"""Predicts with a file that `dedn export --format=stablehlo` wrote: JAX and NumPy are all it needs.

  python load_stablehlo.py MODEL.zip IMAGES.npy [NAME=VALUE,VALUE,...]

IMAGES.npy holds what the model takes (`inputs` of the description): pictures, resized and cropped
as its `transform` says, or feature maps. NAME=VALUE,... adds an unseen class by its attributes.
"""

import io
import json
import sys
import zipfile

import numpy as np
from jax import export


def main() -> None:
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    file, images, *new = sys.argv[1:]
    with zipfile.ZipFile(file) as archive:
        model = export.deserialize(bytearray(archive.read("model.stablehlo")))
        description = json.loads(archive.read("model.json"))
        classes = np.load(io.BytesIO(archive.read("classes.npz")))
    names, embeddings, unseen = description["class_names"], *map(classes.get, classes)
    for text in new:
        name, values = text.split("=")
        names = [*names, name]
        embeddings = np.vstack([embeddings, np.asarray(values.split(","), np.float32)])
        unseen = np.append(unseen, np.float32(1))
    gamma = np.float32(description["gamma"])
    scores, *_ = model.call(np.load(images), embeddings, unseen, gamma)
    for number, row in enumerate(np.asarray(scores)):
        best = np.argsort(-row)[:3]
        print(number, *(f"{names[k]} {row[k]:.6f}" for k in best), sep="\t")


if __name__ == "__main__":
    main()
