"""Sizes of the published data sets: the one table of them."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class Published:
    """What is known of a data set of the xlsa17 benchmark.

    Attributes:
      trainval, test_seen, test_unseen: numbers of images of the proposed split (version 2).
      seen, unseen: numbers of classes.
      attributes: number of attributes, or of dimensions of the sentences.
      picture_folders: from a folder that occurs in the picture names to the same folder below the
        data set's picture root.
      named_folders: whether each picture's folder has the name of its class.
      repeats: whether a picture may occur more than once.
      sentences: whether the class embeddings are of sentences, whose dimensions have no names.
      maps: channels and regions of the feature maps that DEDN's code is published with (ResNet-101,
        448 x 448 pictures; AWA2: 224 x 224); zeros where it has no recipe.
    """

    trainval: int
    test_seen: int
    test_unseen: int
    seen: int
    unseen: int
    attributes: int
    picture_folders: dict[str, str]
    named_folders: bool = True
    repeats: bool = False
    sentences: bool = False
    maps: tuple[int, int] = (0, 0)

    @property
    def images(self) -> int:
        """Images of all splits."""
        return self.trainval + self.test_seen + self.test_unseen

    @property
    def classes(self) -> int:
        """Seen and unseen classes."""
        return self.seen + self.unseen


# Counts: Xian et al., arXiv 1707.00600, table 2 and the proposed splits v2; FLO: the same authors'
# splits for "Feature Generating Networks for Zero-Shot Learning" (CVPR 2018). Folders: as the
# archives unpack, which is also where the published code looks for them below `data/<NAME>`.
PUBLISHED = {
    "CUB": Published(
        *(7057, 1764, 2967, 150, 50, 312),
        {"images": "CUB_200_2011/images"},
        maps=(2048, 196),
    ),
    "SUN": Published(
        *(10320, 2580, 1440, 645, 72, 102),
        {"images": "images"},
        named_folders=False,  # folders nest: `a/airport/entrance` is class airport_entrance
        maps=(2048, 196),
    ),
    "AWA2": Published(
        *(23527, 5882, 7913, 40, 10, 85),
        {"JPEGImages": "Animals_with_Attributes2/JPEGImages"},
        maps=(2048, 49),
    ),
    "AWA1": Published(
        *(19832, 4958, 5685, 40, 10, 85),
        {"JPEGImages": "Animals_with_Attributes/JPEGImages"},
    ),
    "APY": Published(
        *(5932, 1483, 7924, 20, 12, 64),
        {
            "JPEGImages": "VOCdevkit/VOC2008/JPEGImages",  # aPascal
            "ayahoo_test_images": "ayahoo_test_images",
        },
        named_folders=False,
        repeats=True,  # one entry per annotated object, and aPascal's pictures show several
    ),
    "FLO": Published(
        *(5631, 1403, 1155, 82, 20, 1024),
        {"jpg": "jpg"},
        named_folders=False,  # all in one folder
        sentences=True,
    ),
}
# By the first part of a recipe's name: those that DEDN's code is published for.
RECIPES = {name.lower(): known for name, known in PUBLISHED.items() if known.maps[0]}


def own_spelling(name: str) -> str:
    """The name of a benchmark as it is written here, whatever its case; other names as they are."""
    return next((known for known in PUBLISHED if known.lower() == name.lower()), name)
