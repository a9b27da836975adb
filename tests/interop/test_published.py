"""Conversion to and from the published state_dict, and what a bad file is met with."""

import pickle
import zipfile

import numpy as np
import pytest

from dedn_jax import torch_files
from dedn_jax.errors import InputError
from dedn_jax.interop import published

V, C, R, H = 5, 7, 4, 3
GROUP_SIZES = (2, 4)
K = 6


def network(attributes, rank, rng):
    shapes = {
        "word_vectors": (attributes, V),
        "region_attention": (V, C),
        "channel_score": (V, R),
        "channel_attention": (V, R),
    }
    if rank:
        shapes |= {"region_score_left": (V, rank), "region_score_right": (rank, C)}
    else:
        shapes |= {"region_score": (V, C)}
    return {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


def make_params(rank=0, seed=0):
    rng = np.random.default_rng(seed)
    fine = [network(size, rank, rng) for size in GROUP_SIZES]
    return {"coarse": network(sum(GROUP_SIZES), rank, rng), "fine": fine}


def make_state(rank=0):
    embeddings = np.full((K, sum(GROUP_SIZES)), 0.25, np.float32)
    return published.to_published(
        make_params(rank), class_embeddings=embeddings, seen=[0, 1, 4], bias=1
    )


def assert_same(found, expected):
    assert len(found["fine"]) == len(expected["fine"])
    for mine, theirs in zip(
        [found["coarse"], *found["fine"]], [expected["coarse"], *expected["fine"]], strict=True
    ):
        assert mine.keys() == theirs.keys()
        for name in mine:
            assert mine[name].dtype == theirs[name].dtype
            np.testing.assert_array_equal(mine[name], theirs[name])


@pytest.mark.torch
@pytest.mark.parametrize("rank", [0, H])
def test_a_round_trip_through_a_file_changes_no_bit(tmp_path, rank):
    state = make_state(rank)
    torch_files.write_state_dict(tmp_path / "model.pt", state)
    read = torch_files.read_state_dict(tmp_path / "model.pt")
    assert read.keys() == state.keys()
    for key in state:
        assert (read[key].dtype, read[key].shape) == (state[key].dtype, state[key].shape)
        np.testing.assert_array_equal(read[key], state[key])
    assert_same(published.from_published(read), make_params(rank))
    assert [p.name for p in tmp_path.iterdir()] == ["model.pt"]


@pytest.mark.parametrize(
    ("rank", "names"),
    [
        (
            0,
            {
                "V": "word_vectors",
                "H_1": "region_score",
                "H_2": "region_attention",
                "H_3": "channel_score",
                "H_4": "channel_attention",
            },
        ),
        (
            H,
            {
                "V": "word_vectors",
                "H_1": "region_score_left",
                "H_3": "region_score_right",
                "H_2": "region_attention",
                "H_4": "channel_score",
                "H_5": "channel_attention",
            },
        ),
    ],
)
def test_names(rank, names):
    params, state = make_params(rank), make_state(rank)
    assert len(state) == 3 * len(names) + 4
    for theirs, ours in names.items():
        np.testing.assert_array_equal(state[f"GNet.{theirs}"], params["coarse"][ours])
        for g in range(2):
            np.testing.assert_array_equal(state[f"Snet{g}.{theirs}"], params["fine"][g][ours])


def test_entries_that_are_not_learned():
    state = make_state()
    np.testing.assert_array_equal(state["att"], np.full((6, 6), 0.25))
    np.testing.assert_array_equal(state["weight_ce"], np.eye(6))
    np.testing.assert_array_equal(state["mask_bias"], [[-1, -1, 1, 1, -1, 1]])
    bias = state["bias"]
    assert (bias, bias.dtype, bias.shape) == (1, np.int64, ())


def drop(state):
    del state["Snet1.H_2"]


def add(state):
    state["Snet1.H_9"] = np.zeros(3, np.float32)


def gap_in_groups(state):
    for key in [k for k in state if k.startswith("Snet1.")]:
        state["Snet2" + key.removeprefix("Snet1")] = state.pop(key)


def transpose(state):
    state["GNet.H_1"] = state["GNet.H_1"].T


def flatten(state):
    state["GNet.V"] = state["GNet.V"].ravel()


def lose_an_attribute(state):
    state["Snet0.V"] = state["Snet0.V"][:1]


def integers(state):
    state["GNet.V"] = state["GNet.V"].astype(np.int32)


def nan(state):
    state["Snet0.H_4"] = np.full((V, R), np.nan, np.float32)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (drop, r"^a\.pt: lacks Snet1\.H_2; expected"),
        (add, r"^a\.pt: has unexpected Snet1\.H_9; expected"),
        (gap_in_groups, r"^a\.pt: lacks Snet1\.H_1, Snet1\.H_2"),
        (transpose, r"GNet\.H_1 has shape \(7, 5\).*v = 5 \(from GNet\.V\)"),
        (flatten, r"GNet\.V has shape \(30,\), expected \[A_g, v\]"),
        (lose_an_attribute, r"the groups hold 5 attributes together, GNet\.V holds 6"),
        (integers, r"GNet\.V is int32, expected float16, float32 or float64"),
        (nan, r"Snet0\.H_4 holds NaN or infinity"),
    ],
)
def test_a_bad_state_dict_is_named(spoil, message):
    state = make_state()
    spoil(state)
    with pytest.raises(InputError, match=message):
        published.from_published(state, source="a.pt")


def test_params_that_do_not_fit_are_named():
    params = make_params()
    del params["fine"][1]["region_score"]
    message = r"^params\.fine\[1\]: lacks region_score, has unexpected nothing"
    with pytest.raises(InputError, match=message):
        published.learned_entries(params)
    with pytest.raises(InputError, match=r"class_embeddings: shape \(6, 5\), expected"):
        published.to_published(make_params(), class_embeddings=np.ones((6, 5)), seen=[0])
    with pytest.raises(InputError, match=r"seen: class ids up to 6, expected 0 to 5"):
        published.to_published(make_params(), class_embeddings=np.ones((6, 6)), seen=[0, 6])


class Hostile:
    """Unpickling it creates a file."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return (open, (self.path, "w"))


@pytest.mark.torch
def test_a_pickle_that_runs_code_is_refused_and_does_not_run(tmp_path):
    import torch

    trace = tmp_path / "created"
    inside, bare = tmp_path / "inside.pt", tmp_path / "bare.pt"
    torch.save({"GNet.V": Hostile(trace)}, inside)
    bare.write_bytes(pickle.dumps(Hostile(trace)))
    with pytest.raises(InputError, match=r"inside\.pt: holds 'GNet\.V' \(\S*open\), expected a st"):
        torch_files.read_state_dict(inside)
    with pytest.raises(InputError, match=r"bare\.pt: not a readable file of tensors"):
        torch_files.read_state_dict(bare)
    assert not trace.exists()
    # The file is a real attack: the reader that does run pickles would have been taken in.
    torch.load(inside, weights_only=False)["GNet.V"].close()
    assert trace.exists()


@pytest.mark.torch
def test_files_that_are_no_state_dict_are_named(tmp_path):
    import torch

    path = tmp_path / "model.pt"
    with pytest.raises(InputError, match=r"model\.pt: no such file"):
        torch_files.read_state_dict(path)
    for value, message in [
        ([torch.zeros(1)], "holds a list, expected a state_dict"),
        ({"GNet.V": {"a": 1}}, r"holds 'GNet\.V' \(dict\), expected a state_dict"),
        ({"GNet.V": torch.eye(2).to_sparse()}, r"holds 'GNet\.V' \(torch\S+\), expected"),
        (
            {"GNet.V": torch.zeros(1).expand(1 << 40)},
            r"4398046511104 bytes of tensors, expected at most",
        ),
    ]:
        torch.save(value, path)
        with pytest.raises(InputError, match=message):
            torch_files.read_state_dict(path)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("model/data.pkl", bytes(1 << 20))
    with pytest.raises(InputError, match="a compressed archive"):
        torch_files.read_state_dict(path)
    torch.save({"GNet.V": torch.zeros(1000)}, path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(InputError, match=r"cut short: .*copy or download it again"):
        torch_files.read_state_dict(path)


@pytest.mark.torch
def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    import torch

    path = tmp_path / "model.pt"
    torch_files.write_state_dict(path, {"GNet.V": np.float32([1, 2])})

    def fail(_value, target):
        target.write(b"half")
        raise RuntimeError("disk full")

    monkeypatch.setattr(torch, "save", fail)
    with pytest.raises(RuntimeError):
        torch_files.write_state_dict(path, {"GNet.V": np.float32([3, 4])})
    np.testing.assert_array_equal(torch_files.read_state_dict(path)["GNet.V"], [1, 2])
    assert [p.name for p in tmp_path.iterdir()] == ["model.pt"]
    with pytest.raises(InputError, match="cannot be written"):
        torch_files.write_state_dict(path / "model.pt", {})


def test_without_torch_the_message_says_what_to_install(tmp_path):
    with pytest.raises(InputError, match=r"pip install 'dedn-jax\[torch\]'"):
        torch_files.write_state_dict(tmp_path / "model.pt", {})
