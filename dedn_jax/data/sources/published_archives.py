"""Where the benchmarks' archives are published, and what they unpack to."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Archive:
    """A file to download.

    Attributes:
      url: http or https.
      file_name: its name on disk.
      folder: where it unpacks to, below the data root.
      size: in bytes; None: as the server says.
      sha256: in hexadecimal; None: not published.
      unpacks_to: folders at its top level that nothing else makes there.
    """

    url: str
    file_name: str
    folder: str
    size: int | None = None
    sha256: str | None = None
    unpacks_to: tuple[str, ...] = ()


_XLSA17 = Archive(
    url="https://datasets.d2.mpi-inf.mpg.de/xian/xlsa17.zip",
    file_name="xlsa17.zip",
    folder=".",
    unpacks_to=("xlsa17",),
)

# By data set. The folders are those that `dedn_jax.data.sources.xlsa17` looks for pictures in.
ARCHIVES: dict[str, tuple[Archive, ...]] = {
    "CUB": (
        Archive(
            url="https://data.caltech.edu/records/65de6-vp158/files/CUB_200_2011.tgz",
            file_name="CUB_200_2011.tgz",
            folder="CUB",
            size=1_150_585_339,
            sha256="0c685df5597a8b24909f6a7c9db6d11e008733779a671760afef78feb49bf081",
            unpacks_to=("CUB_200_2011",),  # and a file, attributes.txt
        ),
        _XLSA17,
    ),
    "SUN": (
        Archive(
            url="https://cs.brown.edu/~gmpatter/Attributes/SUNAttributeDB_Images.tar.gz",
            file_name="SUNAttributeDB_Images.tar.gz",
            folder="SUN",
            unpacks_to=("images",),
        ),
        Archive(
            url="https://cs.brown.edu/~gmpatter/Attributes/SUNAttributeDB.tar.gz",
            file_name="SUNAttributeDB.tar.gz",
            folder="SUN",
            unpacks_to=("SUNAttributeDB",),  # names of pictures and attributes
        ),
        _XLSA17,
    ),
    "AWA2": (
        Archive(
            url="https://cvml.ista.ac.at/AwA2/AwA2-data.zip",
            file_name="AwA2-data.zip",
            folder="AWA2",
            unpacks_to=("Animals_with_Attributes2",),
        ),
        _XLSA17,
    ),
}
