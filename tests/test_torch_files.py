"""Files of `torch.save`, read without PyTorch: formats, tensors, and hostile pickles."""

from __future__ import annotations

import argparse
import io
import pickle
import struct
import zipfile
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from dedn_jax.errors import InputError
from dedn_jax.torch_files import read_state_dict

_STORAGE = b"ctorch\nFloatStorage\n"


def tensor(key: bytes = b"0", length: int = 6, shape=(2, 3), strides=(3, 1), offset: int = 0):
    """The instructions of a pickle for a tensor."""

    def numbers(values):
        return b"(" + b"".join(b"J" + struct.pack("<i", v) for v in values) + b"t"

    return (
        b"ctorch._utils\n_rebuild_tensor_v2\n((X\7\0\0\0storage"
        + _STORAGE
        + b"X" + struct.pack("<I", len(key)) + key
        + b"X\3\0\0\0cpuJ" + struct.pack("<i", length) + b"tQ"
        + b"J" + struct.pack("<i", offset) + numbers(shape) + numbers(strides)
        + b"\x89)tR"
    )  # fmt: skip


def state_dict(value: bytes) -> bytes:
    return b"\x80\x02}X\1\0\0\0w" + value + b"s."


def archive(path: Path, content: bytes, values: np.ndarray | None = None) -> Path:
    values = np.arange(6, dtype="<f4") if values is None else values
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("model/data.pkl", content)
        file.writestr("model/byteorder", "little")
        file.writestr("model/data/0", values.tobytes())
    return path


def legacy(path: Path, content: bytes, keys=("0",), count: int = 6) -> Path:
    header = [0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}]
    parts = [*(pickle.dumps(part, 2) for part in header), content, pickle.dumps(list(keys), 2)]
    values = np.arange(6, dtype="<f4").tobytes()
    path.write_bytes(b"".join(parts) + struct.pack("<q", count) + values)
    return path


@pytest.mark.parametrize("write", [archive, legacy])
def test_tensors(tmp_path, write):
    expected = np.arange(6, dtype=np.float32).reshape(2, 3)
    found = read_state_dict(write(tmp_path / "a.pth", state_dict(tensor())))
    np.testing.assert_array_equal(found["w"], expected)
    assert found["w"].flags.writeable
    turned = tensor(shape=(2, 2), strides=(1, 3), offset=1)
    found = read_state_dict(write(tmp_path / "b.pth", state_dict(turned)))
    np.testing.assert_array_equal(found["w"], [[1, 4], [2, 5]])


def test_a_checkpoint_is_read_for_its_state_dict(tmp_path):
    whole = b"\x80\x02}X\5\0\0\0epochK\3sX\n\0\0\0state_dict" + state_dict(tensor())[2:-1] + b"s."
    assert read_state_dict(archive(tmp_path / "a.pth", whole))["w"].shape == (2, 3)


class Hostile:
    """Unpickling it creates a file."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self):
        return (open, (self.path, "w"))


def test_code_is_refused_and_does_not_run(tmp_path):
    trace = tmp_path / "created"
    for protocol in range(6):
        content = pickle.dumps({"w": Hostile(trace)}, protocol)
        for write in (archive, legacy):
            with pytest.raises(InputError, match=r"w\.pth: (not a readable file of|holds 'w')"):
                read_state_dict(write(tmp_path / "w.pth", content))
    assert not trace.exists()
    pickle.loads(content)["w"].close()
    assert trace.exists()  # the pickle is a real attack


def test_code_beside_tensors_does_not_run(tmp_path):
    """What a training's arguments or a NumPy scalar are pickled as, and what an attack is."""
    trace = tmp_path / "created"
    beside = {
        "args": argparse.Namespace(lr=0.1, path=Path("x"), seen={1, 2}, raw=b"1"),
        "best": np.float64(0.3),
        "attack": Hostile(trace),
        "state": {0: {"exp_avg": [1.0]}},
    }
    more = pickle.dumps(beside, 2)[2:-1]  # without the protocol and the end
    whole = b"\x80\x02}(X\n\0\0\0state_dict" + state_dict(tensor())[2:-1] + b"X\4\0\0\0more"
    found = read_state_dict(archive(tmp_path / "a.ckpt", whole + more + b"u."))
    assert list(found) == ["w"] and found["w"].shape == (2, 3)
    among = b"\x80\x02}(X\1\0\0\0w" + tensor() + b"X\1\0\0\0v" + tensor() + b"X\1\0\0\0x"
    bad = archive(tmp_path / "b.pth", among + pickle.dumps(Hostile(trace), 2)[2:-1] + b"u.")
    with pytest.raises(
        InputError, match=r"'x' is a \w+\.open, expected a tensor; save the model's"
    ):
        read_state_dict(bad)
    scalar = pickle.dumps(np.float64(0.3), 2)[2:-1]
    found = read_state_dict(archive(tmp_path / "c.pth", among + scalar + b"u."))
    assert list(found) == ["w", "v"]
    assert not trace.exists()


def _named(**dicts: bytes) -> bytes:
    parts = (b"X" + struct.pack("<I", len(k)) + k.encode() + v for k, v in dicts.items())
    return b"\x80\x02}(" + b"".join(parts) + b"u."


def test_which_state_dict_is_read(tmp_path):
    a, b = (state_dict(tensor(offset=0, shape=(n,), strides=(1,)))[2:-1] for n in (2, 3))

    def read(**dicts: bytes):
        return read_state_dict(archive(tmp_path / "w.pth", _named(**dicts)))["w"]

    assert len(read(model_ema=a, model=b)) == 3
    assert len(read(state_dict_ema=a, state_dict=b)) == 3
    assert len(read(whatever=a, epoch=b"K\1")) == 2
    assert len(read(outer=_named(model=b)[2:-1])) == 3
    with pytest.raises(InputError, match=r"several state_dicts \('student', 'teacher'\); save"):
        read(student=a, teacher=b)


BAD = {
    "beyond its storage": (tensor(shape=(2, 4), strides=(3, 1)), r"reaches beyond its storage"),
    "offset beyond": (tensor(offset=1), r"reaches beyond its storage"),
    "negative stride": (tensor(strides=(-3, 1)), r"negative size"),
    "no such storage": (tensor(key=b"7"), r"no item named 'model/data/7'"),
    "path as a storage": (tensor(key=b"../data.pkl"), r"no item named"),
    "other function": (
        b"cnumpy\nzeros\n(J\xff\xff\xff\x7ftR",
        r"holds 'w' \(numpy\.zeros\), expected a state_dict",
    ),
    "submodule": (b"ctorch\nhub.load\n)R", r"holds 'w' \(torch\.hub\.load\), expected"),
    "object": (b"(i__main__\nX\n", r"INST in a pickle"),
    "large memo": (b"Nr\xff\xff\xff\x7f", r"a damaged pickle"),
    "number": (b"K\1", r"holds 'w' \(int\), expected a state_dict"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_pickles(tmp_path, case):
    value, message = BAD[case]
    path = archive(tmp_path / "w.pth", state_dict(value))
    with pytest.raises(InputError, match=message) as caught:
        read_state_dict(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def test_bad_files(tmp_path):
    path = tmp_path / "w.pth"
    with pytest.raises(InputError, match="no such file"):
        read_state_dict(path)
    for content in (b"", b"hello", b"\x80\x02K\1."):
        path.write_bytes(content)
        with pytest.raises(InputError, match="not a readable file of tensors"):
            read_state_dict(path)
    for keys, count in ((("1",), 6), (("0",), 5), ((), 6)):
        with pytest.raises(InputError, match="storages that are not those of its tensors"):
            read_state_dict(legacy(path, state_dict(tensor()), keys, count))
    huge = tensor(shape=(1 << 30, 1 << 20), strides=(0, 0))
    with pytest.raises(InputError, match=r"4503599627370496 bytes of tensors, expected at most"):
        read_state_dict(archive(path, state_dict(huge)))
    np.savez(tmp_path / "w.npz", a=np.ones(2))
    (tmp_path / "w.npz").rename(path)
    with pytest.raises(InputError, match=r"an archive without data\.pkl"):
        read_state_dict(path)


@pytest.mark.torch
@pytest.mark.parametrize("zipped", [True, False])
def test_what_pytorch_writes(tmp_path, zipped):
    import torch

    torch.manual_seed(0)
    tensors = {
        "transposed": torch.randn(3, 4).T,
        "part": torch.randn(5)[1:4],
        "number": torch.tensor(3),
        "parameter": torch.nn.Parameter(torch.randn(2, 2)),
        "half": torch.randn(3).half(),
        "bfloat16": torch.randn(3).bfloat16(),
        "empty": torch.zeros(0, 3),
        "truth": torch.tensor([True, False]),
    }
    tensors["shared"] = tensors["transposed"][1:]
    module = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 2), torch.nn.BatchNorm2d(4))
    for value in (tensors, module.state_dict(), {"state_dict": tensors, "lr": 0.1, "args": [1]}):
        file = io.BytesIO()
        torch.save(value, file, _use_new_zipfile_serialization=zipped)
        (tmp_path / "w.pth").write_bytes(file.getvalue())
        found = read_state_dict(tmp_path / "w.pth")
        theirs = value.get("state_dict", value)
        assert list(found) == list(theirs)
        for key, expected in theirs.items():
            expected = expected.detach()
            if expected.dtype == torch.bfloat16:
                assert found[key].dtype == ml_dtypes.bfloat16
                expected = expected.float()
            np.testing.assert_array_equal(found[key], expected.numpy())


@pytest.mark.parametrize("offset", [8, 18, 22])
def test_members_that_are_not_as_the_archive_says(tmp_path, offset):
    """Encrypted, or of other sizes: met only when values are read."""
    path = archive(tmp_path / "model.pt", state_dict(tensor()))
    data = bytearray(path.read_bytes())
    entry = data.rindex(b"PK\1\2")  # of the values
    data[entry + offset] = 1
    data[entry + offset + 2] = 1
    path.write_bytes(data)
    with pytest.raises(InputError, match="not a readable file of tensors"):
        read_state_dict(path)


def test_storages_beyond_the_end_of_the_file(tmp_path):
    count = 2**31 - 1
    path = legacy(tmp_path / "model.pt", state_dict(tensor(length=count)), count=count)
    with pytest.raises(InputError, match="beyond the end of the file"):
        read_state_dict(path)


def test_keys_too_large_to_be_hashed(tmp_path):
    """Python's own stack would end, or it would take for ever: nothing of it may be unpickled."""
    deep = b"\x80\x02})" + b"\x85" * 300_000 + b"Ns."
    for write in (archive, legacy):
        with pytest.raises(InputError, match="a key of more than 100 values"):
            read_state_dict(write(tmp_path / "a.pth", deep))
    given = b"ctorch._utils\n_rebuild_parameter\n"
    twice = b"\x80\x02)q\0" + b"h\0h\0\x86q\0" * 60
    for content in (
        b"\x80\x02)q\0" + b"h\0\x85q\0" * 200 + b"}h\0Ns.",
        b"\x80\x02}" + given * 200 + b")" + b"\x85\x85R" * 200 + b"Ns.",
        twice + b"}h\0Ns.",
        twice + b"}(h\0Nu.",
        b"\x80\x02}\x8b" + struct.pack("<i", 9) + bytes(9) + b"Ns.",
        b"\x80\x04)q\0" + b"h\0h\0\x86q\0" * 60 + b"\x8f(h\0\x90.",
    ):
        with pytest.raises(InputError, match="a key of more than 100 values"):
            read_state_dict(archive(tmp_path / "a.pth", content))


def test_keys_that_no_instruction_names(tmp_path):
    """They come in lists, which can be filled after they were looked at."""
    twice = b"\x80\x02)q\0" + b"h\0h\0\x86q\0" * 60
    pairs = twice + b"ccollections\nOrderedDict\n(]]h\0aNaatR."
    with pytest.raises(InputError, match="a dict with a tuple as a key"):
        read_state_dict(archive(tmp_path / "a.pth", pairs))
    given = b"ctorch._tensor\n_rebuild_from_type_v2\n(ctorch._utils\n_rebuild_parameter\nNh\1tR"
    listed = b"\x80\x02]q\1)" + b"\x85" * 300_000 + b"a}" + given + b"Ns."
    with pytest.raises(InputError, match="a tensor of a kind of its own"):
        read_state_dict(archive(tmp_path / "a.pth", listed))
    path = legacy(tmp_path / "a.pth", state_dict(tensor()), keys=())
    ends = len(pickle.dumps([], 2)) + 8 + 24
    path.write_bytes(path.read_bytes()[:-ends] + twice + b"]h\0a." + bytes(32))
    with pytest.raises(InputError, match="storages that are not those of its tensors"):
        read_state_dict(path)


def test_keys_of_a_few_values(tmp_path):
    """Beside a state_dict: what is met in checkpoints is read."""
    other = {("a", 1): 2, 3: {(1, (2, "b")), None}, "long": (1.5,) * 9999}
    beside = pickle.dumps({"other": other}, 4)[:-1]
    content = beside + b"X\5\0\0\0model" + state_dict(tensor())[2:-1] + b"s."
    assert list(read_state_dict(archive(tmp_path / "a.pth", content))) == ["w"]
    pairs = b"\x80\x02ccollections\nOrderedDict\n(]]X\1\0\0\0wa" + tensor() + b"aatR."
    assert list(read_state_dict(archive(tmp_path / "a.pth", pairs))) == ["w"]


def test_a_dict_that_holds_itself(tmp_path):
    keys = b"".join(b"X\1\0\0\0" + bytes([65 + i]) + b"h\0" for i in range(26))
    with pytest.raises(InputError, match="expected a state_dict"):
        read_state_dict(archive(tmp_path / "a.pth", b"\x80\x02}q\0(" + keys + b"u."))


@pytest.mark.parametrize(
    ("shape", "strides"), [((0,), (2**62,)), ((1,), (2**70,)), ((2**70, 0), (1, 1))]
)
def test_sizes_that_no_tensor_has(tmp_path, shape, strides):
    def numbers(values):
        return b"(" + b"".join(pickle.dumps(v, 2)[2:-1] for v in values) + b"t"

    content = tensor(shape=(), strides=()).replace(b"(t(t", numbers(shape) + numbers(strides))
    with pytest.raises(InputError, match="a negative size or an impossible one"):
        read_state_dict(archive(tmp_path / "a.pth", state_dict(content)))


def test_more_dimensions_than_an_array_has(tmp_path):
    content = state_dict(tensor(shape=(1,) * 65, strides=(1,) * 65))
    with pytest.raises(InputError, match="a tensor of 65 dimensions"):
        read_state_dict(archive(tmp_path / "a.pth", content))


def test_a_storage_of_another_size_than_it_says(tmp_path):
    content = state_dict(tensor(length=1000))
    with pytest.raises(InputError, match="a storage of 24 bytes that says it has 1000 values"):
        read_state_dict(archive(tmp_path / "a.pth", content))


def test_a_storage_is_read_once(tmp_path, monkeypatch):
    """Though many tensors are views of it, as where parameters are flattened."""
    views = b"".join(b"X\1\0\0\0" + bytes([97 + i]) + tensor() for i in range(9))
    path, read = archive(tmp_path / "a.pth", b"\x80\x02}(" + views + b"u."), []
    whole = zipfile.ZipFile.read

    def counted(file, member, *rest):
        read.append(getattr(member, "filename", member))
        return whole(file, member, *rest)

    monkeypatch.setattr(zipfile.ZipFile, "read", counted)
    assert list(read_state_dict(path)) == list("abcdefghi")
    assert read.count("model/data/0") == 1


def test_an_archive_is_listed_once(tmp_path, monkeypatch):
    """However many storages: of ten thousand tensors it took minutes."""
    path, count, listed = tmp_path / "a.pth", 9, []
    names = [bytes([97 + i]) for i in range(count)]
    content = b"".join(b"X\1\0\0\0" + name + tensor(name) for name in names)
    archive(path, b"\x80\x02}(" + content + b"u.")
    with zipfile.ZipFile(path, "a") as file:
        for name in names:
            file.writestr(f"model/data/{name.decode()}", bytes(24))
    contents = zipfile.ZipFile._RealGetContents
    counted = lambda file: (listed.append(file), contents(file))  # noqa: E731
    monkeypatch.setattr(zipfile.ZipFile, "_RealGetContents", counted)
    assert len(read_state_dict(path)) == count
    assert len(listed) == 1


def test_a_file_that_is_cut_short(tmp_path):
    path = archive(tmp_path / "a.pth", state_dict(tensor()))
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(InputError, match=r"cut short: .* its end is missing; copy or download it"):
        read_state_dict(path)


@pytest.mark.parametrize("name", ["torch._utils\n_rebuild_tensor_v2", "collections\nOrderedDict"])
def test_a_file_changes_no_function_for_those_after_it(tmp_path, name):
    """By the instruction that sets the state of an object."""
    state = b"N}X\x0c\0\0\0__defaults__)s\x86"
    content = state_dict(b"c" + name.encode() + b"\n" + state + b"b")
    with pytest.raises(InputError, match="it changes a function"):
        read_state_dict(archive(tmp_path / "a.pth", content))
    assert list(read_state_dict(archive(tmp_path / "b.pth", state_dict(tensor())))) == ["w"]
