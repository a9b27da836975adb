"""Descriptions, citations and homepages that are written into prepared sets."""

from __future__ import annotations

from typing import NamedTuple


class About(NamedTuple):
    description: str
    citation: str = ""
    homepage: str = ""


_SPLITS = (
    "Proposed splits and class attributes: Xian et al., Zero-Shot Learning: A Comprehensive "
    "Evaluation of the Good, the Bad and the Ugly."
)
_XIAN = """\
@article{xian2018zero,
  title={Zero-Shot Learning: A Comprehensive Evaluation of the Good, the Bad and the Ugly},
  author={Xian, Yongqin and Lampert, Christoph H. and Schiele, Bernt and Akata, Zeynep},
  journal={IEEE Transactions on Pattern Analysis and Machine Intelligence},
  year={2018}
}"""
_ABOUT = {
    "cub": About(
        "Caltech-UCSD Birds-200-2011: photographs of 200 kinds of birds with 312 attributes, for "
        f"non-commercial research. {_SPLITS}",
        """\
@techreport{WahCUB_200_2011,
  title={The Caltech-UCSD Birds-200-2011 Dataset},
  author={Wah, C. and Branson, S. and Welinder, P. and Perona, P. and Belongie, S.},
  year={2011},
  institution={California Institute of Technology},
  number={CNS-TR-2011-001}
}
"""
        + _XIAN,
        "https://www.vision.caltech.edu/datasets/cub_200_2011/",
    ),
    "sun": About(
        f"SUN Attribute: photographs of 717 kinds of scenes with 102 attributes. {_SPLITS}",
        """\
@inproceedings{patterson2012sun,
  title={SUN Attribute Database: Discovering, Annotating, and Recognizing Scene Attributes},
  author={Patterson, Genevieve and Hays, James},
  booktitle={IEEE Conference on Computer Vision and Pattern Recognition},
  year={2012}
}
"""
        + _XIAN,
        "https://cs.brown.edu/~gmpatter/sunattributes.html",
    ),
    "awa2": About(
        f"Animals with Attributes 2: photographs of 50 animals with 85 attributes. {_SPLITS}",
        _XIAN,
        "https://cvml.ista.ac.at/AwA2/",
    ),
    "awa1": About(
        f"Animals with Attributes: photographs of 50 animals with 85 attributes. {_SPLITS}",
        _XIAN,
        "https://cvml.ista.ac.at/AwA/",
    ),
    "apy": About(
        "aPascal and aYahoo: photographs of 32 kinds of objects, cut to their boxes, with 64 "
        f"attributes. {_SPLITS}",
        _XIAN,
        "https://vision.cs.uiuc.edu/attributes/",
    ),
    "flo": About(
        "Oxford Flowers 102: photographs of 102 kinds of flowers. Proposed splits and class "
        "embeddings of sentences: Xian et al., Feature Generating Networks for Zero-Shot Learning.",
        """\
@inproceedings{xian2018feature,
  title={Feature Generating Networks for Zero-Shot Learning},
  author={Xian, Yongqin and Lorenz, Tobias and Schiele, Bernt and Akata, Zeynep},
  booktitle={IEEE Conference on Computer Vision and Pattern Recognition},
  year={2018}
}""",
        "https://www.robots.ox.ac.uk/~vgg/data/flowers/102/",
    ),
    "demo": About("Drawn creatures of 50 kinds with attributes of their parts."),
}


def about(name: str) -> About:
    """Description, citation and homepage of the set of that name."""
    return _ABOUT.get(name, About("Pictures of seen and unseen classes with class attributes."))
