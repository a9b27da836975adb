"""Attribute groups: which attributes each subnetwork of the fine expert owns."""

from __future__ import annotations

import dataclasses
import itertools
import re
import warnings
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float, Int

from dedn_jax.errors import InputError, check_type
from dedn_jax.model.norms import MIN_NORM


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
    def order(self) -> Int[np.ndarray, " attributes"]:
        """Attribute indices in group order: the first group's, the second's, and so on."""
        return np.concatenate([np.asarray(m, np.int64) for m in self.members])


# Half-open ranges per group, in the order of the published code's subnetworks; None: all attributes
# that are in no other group. Source: the `indicator` tables of zjrao/DEDN.
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
    # The groups of the published comment.
    "sun": (
        102,
        (
            ("function", ((0, 38),)),
            ("element", ((38, 65),)),
            ("environment and material", ((65, 74), (77, 85))),
            ("others", None),
        ),
    ),
    # The groups of the published code: three of its ranges are written as subtractions, which pick
    # the single attributes 65-74 = -9 (93), 74-77 = -3 (99) and 85-102 = -17 (85).
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
PUBLISHED_GROUPS = tuple(_TABLES)


def as_groups(
    groups: AttributeGroups | Mapping[str, Sequence[int]] | str,
    word_vectors: Float[np.ndarray, "attributes word_dim"],
) -> AttributeGroups:
    """The partition itself, from a mapping of names to attribute indices, or from a string.

    >>> as_groups({"wing": [2, 0], "tail": [1]}, np.eye(3)).members
    ((0, 2), (1,))

    Args:
      groups: `AttributeGroups`, a mapping, or a string that `resolve_groups` reads.
      word_vectors: `[attributes, word_dim]`.

    Raises:
      InputError: no partition of the attributes, or a string that `resolve_groups` refuses.
    """
    if isinstance(groups, str):
        return resolve_groups(groups, word_vectors)
    expected = "a mapping of names to attribute indices, or AttributeGroups"
    check_type("groups", groups, AttributeGroups | Mapping, expected)
    if not isinstance(groups, AttributeGroups):
        try:
            members = tuple(tuple(sorted(map(int, m))) for m in groups.values())
        except (TypeError, ValueError) as error:
            raise InputError(f"groups: {error}; expected {expected}") from error
        groups = AttributeGroups(tuple(map(str, groups)), members)
    _check_partition(groups.members, len(word_vectors), "groups")
    return groups


def resolve_groups(
    spec: str,
    word_vectors: Float[np.ndarray, "attributes word_dim"],
    own: AttributeGroups | None = None,
) -> AttributeGroups:
    """The partition that `config.data.groups` names.

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
                f"{num_attributes}; use data (the data set's groups), single, clusters:N or a list"
            )
        return _from_table(table, num_attributes)
    if spec == "single":
        return AttributeGroups(("all",), (tuple(range(num_attributes)),))
    if spec == "data":
        if own is None:
            raise InputError(
                "config.data.groups='data', but the data set has no groups; use single, "
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
    """Number of attributes of the published groups `name` (`cub`, `awa2`, ...)."""
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
    field = f"config.data.groups={spec!r}"
    members = []
    for part in spec.split(";"):
        indices: list[int] = []
        for item in filter(None, (i.strip() for i in part.split(","))):
            ends = re.fullmatch(r"(\d+)(?:-(\d+))?", item)
            if not ends:
                raise InputError(
                    f"{field}: cannot read {item!r}, expected an attribute index or a range such "
                    "as 0-8"
                )
            first, last = int(ends[1]), int(ends[2] or ends[1])
            # Checked before the range is expanded: a typing error can ask for 10^14 attributes.
            _check_range(max(first, last), num_attributes, field)
            indices += range(first, last + 1)
        members.append(tuple(sorted(indices)))
    _check_partition(members, num_attributes, field)
    return AttributeGroups(tuple(f"group {g}" for g in range(len(members))), tuple(members))


def _check_range(attribute: int, num_attributes: int, field: str) -> None:
    if not 0 <= attribute < num_attributes:
        raise InputError(
            f"{field}: attribute {attribute}, but the data have only {num_attributes} (0-based); "
            "list each of them once"
        )


def _check_partition(members: Sequence[Sequence[int]], num_attributes: int, field: str) -> None:
    """Raises InputError unless every attribute is in exactly one group and no group is empty."""
    flat = sorted(i for m in members for i in m)
    for attribute in flat[:1] + flat[-1:]:
        _check_range(attribute, num_attributes, field)
    if missing := sorted(set(range(num_attributes)) - set(flat)):
        raise InputError(f"{field}: attribute {missing[0]} is in no group; add it to one")
    if twice := [i for i, j in itertools.pairwise(flat) if i == j]:
        raise InputError(f"{field}: attribute {twice[0]} is in a group twice or in two; keep one")
    if not all(members):
        raise InputError(f"{field}: an empty group; remove it")


def _clusters(
    word_vectors: Float[np.ndarray, "attributes word_dim"], count: int, seed: int
) -> AttributeGroups:
    from scipy.cluster.vq import kmeans2  # imported here: it takes half a second

    if not 1 <= count <= len(word_vectors):
        raise InputError(
            f"config.data.groups='clusters:{count}', expected 1 to {len(word_vectors)} clusters, "
            "the number of attributes"
        )
    vectors = np.asarray(word_vectors, np.float64)
    vectors = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), MIN_NORM)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of an empty cluster, which is an error below
        _, label = kmeans2(vectors, count, minit="++", rng=np.random.default_rng(seed), iter=50)
    members = sorted(tuple(np.flatnonzero(label == g).tolist()) for g in range(count))
    if not all(members):
        raise InputError(
            f"config.data.groups='clusters:{count}': the word vectors form fewer clusters; use a "
            "smaller number"
        )
    return AttributeGroups(tuple(f"cluster {g}" for g in range(len(members))), tuple(members))
