"""Attribute groups: which attributes each subnetwork of the fine expert owns."""

from __future__ import annotations

import dataclasses
import re
import warnings

import numpy as np

from dedn_jax.errors import InputError


@dataclasses.dataclass(frozen=True)
class AttributeGroups:
    """A partition of the attributes.

    Attributes:
      names: one per group.
      members: one tuple of ascending attribute indices per group; together all attributes once.
    """

    names: tuple[str, ...]
    members: tuple[tuple[int, ...], ...]

    @property
    def num_attributes(self) -> int:
        return sum(self.sizes)

    @property
    def sizes(self) -> tuple[int, ...]:
        return tuple(len(m) for m in self.members)

    @property
    def order(self) -> np.ndarray:
        """`[attributes]` int: the attributes in group order."""
        return np.concatenate([np.asarray(m, np.int64) for m in self.members])


# Half-open ranges per group, in the order the published code numbers its subnetworks; one group of
# each table is "the rest". Source: the `indicator` tables of zjrao/DEDN.
_TABLES: dict[str, tuple[int, tuple[tuple[str, tuple[tuple[int, int], ...] | None], ...]]] = {
    "cub": (
        312,
        (
            ("head", None),
            ("torso", ((24, 73), (105, 120), (197, 212), (236, 240), (244, 248))),
            ("wing", ((9, 24), (212, 217), (308, 312))),
            ("tail", ((73, 94), (167, 182), (240, 244))),
            ("leg", ((263, 278),)),
            ("whole body", ((217, 236), (248, 263))),
        ),
    ),
    "awa2": (
        85,
        (
            ("texture", None),
            ("limb", ((18, 33),)),
            ("abstract", ((33, 64), (78, 85))),
            ("environment", ((64, 78),)),
        ),
    ),
    # As the published comment means it.
    "sun": (
        102,
        (
            ("function", ((0, 38),)),
            ("element", ((38, 65),)),
            ("environment and material", ((65, 74), (77, 85))),
            ("others", None),
        ),
    ),
    # As the published code runs: three of its ranges are written as subtractions, which pick the
    # single attributes 65-74 = -9 (93), 74-77 = -3 (99) and 85-102 = -17 (85).
    "sun_released": (
        102,
        (
            ("rest", None),
            ("element", ((38, 65),)),
            ("environment and material", ((77, 85), (93, 94))),
            ("others", ((85, 86), (99, 100))),
        ),
    ),
}


def resolve_groups(
    spec: str, word_vectors: np.ndarray, own: AttributeGroups | None = None
) -> AttributeGroups:
    """Makes the partition that `config.data.groups` names.

    Args:
      spec: `cub`, `awa2`, `sun`, `sun_released`; `single` (one group); `data` (the data set's
        own); `clusters:N` or `clusters:N:SEED` (k-means on the word vectors); or a list such as
        `0-8,12;9-11`: groups split by `;`, each of attribute indices and inclusive ranges, 0-based.
      word_vectors: `[attributes, word_dim]`.
      own: the groups that came with the data set, if any.

    Raises:
      InputError: unknown name, wrong number of attributes, or a list that is no partition.
    """
    num_attributes = len(word_vectors)
    if spec in _TABLES:
        expected, table = _TABLES[spec]
        if expected != num_attributes:
            raise InputError(
                f"config.data.groups={spec!r} is for {expected} attributes, the data have "
                f"{num_attributes}; use data (the data set's own), single, clusters:N or a list"
            )
        return _from_table(table, num_attributes)
    if spec == "single":
        return AttributeGroups(("all",), (tuple(range(num_attributes)),))
    if spec == "data":
        if own is None:
            raise InputError(
                "config.data.groups='data', but the data set brings no groups; use single, "
                "clusters:N or a list"
            )
        return own
    if match := re.fullmatch(r"clusters:(\d+)(?::(\d+))?", spec):
        return _clusters(word_vectors, int(match[1]), int(match[2] or 0))
    if re.fullmatch(r"[\d,;\- ]+", spec):
        return _from_list(spec, num_attributes)
    raise InputError(
        f"config.data.groups={spec!r}, expected one of {', '.join(_TABLES)}, single, data, "
        "clusters:N[:SEED], or a list such as 0-8,12;9-11"
    )


def published_attributes(name: str) -> int:
    """How many attributes the published groups `name` (`cub`, `awa2`, ...) are for."""
    return _TABLES[name][0]


def _from_table(
    table: tuple[tuple[str, tuple[tuple[int, int], ...] | None], ...], num_attributes: int
) -> AttributeGroups:
    taken = {i for _, ranges in table for a, b in ranges or () for i in range(a, b)}
    rest = tuple(i for i in range(num_attributes) if i not in taken)
    return AttributeGroups(
        tuple(name for name, _ in table),
        tuple(
            rest if ranges is None else tuple(sorted(i for a, b in ranges for i in range(a, b)))
            for _, ranges in table
        ),
    )


def _from_list(spec: str, num_attributes: int) -> AttributeGroups:
    members = []
    for part in spec.split(";"):
        indices: list[int] = []
        for item in filter(None, (i.strip() for i in part.split(","))):
            ends = re.fullmatch(r"(\d+)(?:-(\d+))?", item)
            if not ends:
                raise InputError(f"config.data.groups: cannot read {item!r} in {spec!r}")
            first, last = int(ends[1]), int(ends[2] or ends[1])
            # Before the range is written out: a slip of the finger can name a billion attributes.
            if max(first, last) >= num_attributes:
                raise InputError(
                    f"config.data.groups: attribute {max(first, last)} in {spec!r}, but the data "
                    f"have only {num_attributes} (0-based); give each of them once"
                )
            indices += range(first, last + 1)
        members.append(tuple(sorted(indices)))
    flat = [i for m in members for i in m]
    if missing := sorted(set(range(num_attributes)) - set(flat)):
        raise InputError(f"config.data.groups: attribute {missing[0]} is in no group of {spec!r}")
    if len(set(flat)) != len(flat) or not all(members):
        raise InputError(f"config.data.groups: {spec!r} has an empty group or one attribute twice")
    return AttributeGroups(tuple(f"group {g}" for g in range(len(members))), tuple(members))


def _clusters(word_vectors: np.ndarray, count: int, seed: int) -> AttributeGroups:
    from scipy.cluster.vq import kmeans2  # here: half a second of import nobody else needs

    if not 1 <= count <= len(word_vectors):
        raise InputError(
            f"config.data.groups='clusters:{count}', expected 1 to {len(word_vectors)} (attributes)"
        )
    vectors = np.asarray(word_vectors, np.float64)
    vectors = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scipy warns of an empty cluster, which is an error below
        _, label = kmeans2(vectors, count, minit="++", rng=np.random.default_rng(seed), iter=50)
    members = sorted(tuple(np.flatnonzero(label == g).tolist()) for g in range(count))
    if not all(members):
        raise InputError(
            f"config.data.groups='clusters:{count}': the word vectors form fewer clusters; use a "
            "smaller number"
        )
    return AttributeGroups(tuple(f"cluster {g}" for g in range(len(members))), tuple(members))
