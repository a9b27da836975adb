"""Which creatures exist in the demo set: parts, attributes, classes, word vectors.

Zero-shot learning needs classes that are new *combinations* of attribute values, each value being
familiar from several training classes. Real data sets have that by nature; here it is designed: the
class table below was searched offline so that within each of its three blocks the values of a trait
occur about equally often, any two classes differ in at least nine of fifteen traits, and traits are
close to independent of each other, so that the colour of a wing cannot be guessed from the ground.

The table does not depend on the seed of the pictures: the classes are the same in every set.
"""

from __future__ import annotations

from types import MappingProxyType

import numpy as np

# Part -> trait -> values. The parts are the attribute groups, one fine expert each.
PARTS: MappingProxyType[str, MappingProxyType[str, tuple[str, ...]]] = MappingProxyType(
    {
        part: MappingProxyType({trait: tuple(values.split()) for trait, values in traits.items()})
        for part, traits in {
            "body": {
                "body_shape": "round slender boxy",
                "body_color": "red yellow green blue purple white",
                "body_pattern": "plain striped spotted scaled",
            },
            "head": {
                "head_shape": "round beaked snouted",
                "head_color": "red yellow blue white black",
                "head_crown": "horns crest ears antennae",
            },
            "wing": {
                "wing_shape": "rounded pointed webbed",
                "wing_color": "red yellow green blue purple black",
                "wing_pattern": "plain banded eyed",
            },
            "tail": {
                "tail_shape": "whip fan forked curled",
                "tail_color": "red yellow green blue black",
            },
            "leg": {
                "leg_count": "two four",
                "leg_length": "short long",
                "leg_color": "orange black pink",
            },
            "ground": {"ground": "meadow desert snow water rock"},
        }.items()
    }
)

TRAITS: tuple[str, ...] = tuple(trait for traits in PARTS.values() for trait in traits)

# One row per class, one column per trait, in the order of TRAITS.
_TRAINING = """
round blue spotted snouted yellow horns pointed red plain forked blue two long black meadow
slender green spotted round blue ears pointed black banded forked green four long pink snow
slender purple plain snouted blue crest rounded red plain whip black four long black rock
boxy green scaled round yellow horns pointed green eyed forked red four short pink water
slender blue plain beaked black ears rounded black eyed curled green four short black water
boxy yellow scaled round white crest rounded green banded whip red two short orange meadow
slender blue spotted beaked blue antennae rounded purple eyed forked red two long orange desert
boxy white plain beaked white ears pointed yellow plain fan green two long black rock
slender purple spotted beaked red crest pointed red plain fan yellow two short orange snow
round white plain snouted white ears webbed purple banded whip yellow two long orange snow
boxy white spotted round white antennae pointed purple banded curled blue four short black meadow
boxy red scaled snouted blue ears rounded blue plain curled blue two short orange snow
slender yellow striped beaked yellow crest pointed blue banded curled red four long black desert
boxy red striped beaked black crest webbed green eyed whip yellow four short black rock
round blue spotted round yellow crest webbed blue banded fan yellow four short pink meadow
boxy yellow scaled snouted yellow antennae pointed black plain fan black two long pink water
boxy yellow striped snouted yellow ears rounded purple eyed forked blue four long pink rock
round red scaled snouted black crest webbed purple banded forked black four long black water
boxy yellow spotted round black horns webbed yellow plain fan green four short orange desert
round yellow plain beaked red horns webbed purple plain forked red two short black snow
slender white plain snouted blue horns rounded green eyed fan yellow two short pink meadow
round white scaled beaked red crest rounded yellow eyed curled black two long orange rock
round purple striped round black horns rounded yellow plain curled yellow two long pink water
boxy green plain snouted red antennae webbed blue eyed whip green four long pink meadow
slender red spotted round white horns pointed blue eyed whip black two long black desert
round blue striped round red ears pointed red banded forked black two short orange water
round green striped beaked white antennae rounded black plain whip blue two short black desert
slender red striped snouted red horns webbed black eyed curled blue four long orange desert
slender purple striped snouted blue antennae webbed yellow banded fan blue four short pink water
round green scaled round blue antennae webbed red plain fan red four long orange meadow
round red scaled round red antennae webbed green banded curled green two short pink rock
boxy purple plain beaked black ears pointed blue banded whip black four short pink snow
"""
_VALIDATION = """
round purple scaled round red ears rounded purple eyed fan yellow four short black desert
slender red spotted snouted yellow ears rounded yellow banded whip red two short black rock
boxy purple striped beaked blue horns pointed green banded curled green two long orange meadow
boxy blue scaled beaked white horns webbed green plain curled yellow four long pink snow
round white spotted beaked white antennae webbed red eyed forked black four short pink desert
round yellow striped snouted black antennae rounded blue eyed fan green two long black snow
slender green plain round black crest webbed yellow banded forked blue two short orange rock
boxy blue plain round red crest pointed black plain whip blue four long orange water
"""
_UNSEEN = """
boxy green striped snouted white crest pointed yellow eyed curled yellow two short pink desert
slender white striped round black ears rounded green plain forked red four long black meadow
boxy green striped round red horns rounded yellow banded fan black four long black snow
round blue plain snouted white horns pointed blue eyed fan red four short orange rock
slender red scaled beaked yellow antennae pointed purple plain whip green four short orange meadow
round white spotted snouted blue crest pointed blue plain whip green two short pink water
boxy purple plain round yellow antennae webbed black banded forked yellow two long black desert
slender yellow scaled beaked red ears webbed red eyed whip blue two long pink water
round purple spotted beaked black antennae rounded green banded fan blue four long orange rock
boxy blue spotted round blue crest webbed black eyed curled black two short black snow
"""


def _parse(table: str) -> tuple[MappingProxyType[str, str], ...]:
    rows = []
    for line in table.strip().splitlines():
        row = dict(zip(TRAITS, line.split(), strict=True))
        for traits in PARTS.values():
            for trait, values in traits.items():
                if row[trait] not in values:
                    raise ValueError(f"class table: {trait} has no value {row[trait]!r}: {line}")
        rows.append(MappingProxyType(row))
    return tuple(rows)


_BLOCKS = tuple(_parse(table) for table in (_TRAINING, _VALIDATION, _UNSEEN))

# Class k is CLASSES[k], a mapping from trait to value. Seen classes come first.
CLASSES: tuple[MappingProxyType[str, str], ...] = sum(_BLOCKS, ())

_BOUNDS = np.cumsum([0, *map(len, _BLOCKS)])
SEEN_CLASSES: np.ndarray = np.arange(_BOUNDS[0], _BOUNDS[2], dtype=np.int64)
VALIDATION_CLASSES: np.ndarray = np.arange(_BOUNDS[1], _BOUNDS[2], dtype=np.int64)
UNSEEN_CLASSES: np.ndarray = np.arange(_BOUNDS[2], _BOUNDS[3], dtype=np.int64)

ATTRIBUTES: tuple[tuple[str, str], ...] = tuple(
    (trait, value)
    for traits in PARTS.values()
    for trait, values in traits.items()
    for value in values
)

_GROUND_EPITHETS = {
    "meadow": "Meadow",
    "desert": "Dune",
    "snow": "Snow",
    "water": "Lake",
    "rock": "Crag",
}
_TAIL_NOUNS = {"whip": "whiptail", "fan": "fantail", "forked": "forktail", "curled": "curltail"}


def class_names() -> tuple[str, ...]:
    """Field-guide names, such as ``"Dune red-winged forktail"``, all different."""
    return tuple(
        f"{_GROUND_EPITHETS[row['ground']]} {row['wing_color']}-winged "
        f"{_TAIL_NOUNS[row['tail_shape']]}"
        for row in CLASSES
    )


def attribute_names() -> tuple[str, ...]:
    """Names in the style of CUB, such as ``"wing_color::red"``; one per attribute."""
    return tuple(f"{trait}::{value}" for trait, value in ATTRIBUTES)


def attribute_groups() -> tuple[tuple[str, tuple[int, ...]], ...]:
    """(part, attribute indices) for every part; each attribute is in exactly one group."""
    return tuple(
        (part, tuple(i for i, (trait, _) in enumerate(ATTRIBUTES) if trait in traits))
        for part, traits in PARTS.items()
    )


def class_embeddings() -> np.ndarray:
    """Class-by-attribute matrix ``[classes, attributes]`` float32: 1 where the class has it."""
    rows = [[row[trait] == value for trait, value in ATTRIBUTES] for row in CLASSES]
    return np.asarray(rows, np.float32)


def attribute_words() -> tuple[tuple[str, ...], ...]:
    """The words of each attribute's name, for its word vector: part, property and value.

    Attributes that share a word get related vectors: all reds, all colours, all that concerns the
    wing. Real word embeddings bring the same kind of relatedness.
    """
    return tuple((*trait.split("_"), value) for trait, value in ATTRIBUTES)
