"""One program on eight simulated devices gives what one device gives."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.made_up import prepared_folder

_RUN = """
import json, sys
import jax, numpy as np
from dedn_jax import distributed
from dedn_jax.config import load_config
from dedn_jax.run import load_selected, open_run
from dedn_jax.train import train

result = train(load_config("demo", sys.argv[2:]), sys.argv[1])
run = open_run(sys.argv[1])
leaves = [np.asarray(x).ravel() for x in jax.tree.leaves(load_selected(run))]
batch = distributed.shard_batch(np.zeros((8, 3)))
odd = distributed.shard_batch(np.zeros((7, 3)))
np.savez(sys.argv[1] + ".npz", parameters=np.concatenate(leaves))
print(json.dumps({
    "devices": jax.device_count(), "test": result["test"],
    "rows": batch.addressable_shards[0].data.shape[0],
    "odd_rows": odd.addressable_shards[0].data.shape[0],
}))
"""


def run(devices: int, prepared: Path, folder: Path, batch_size: int) -> tuple[dict, np.ndarray]:
    flags = [
        "--config.data.format=prepared",
        "--config.data.groups=single",
        f"--config.data.path={prepared}",
        "--config.picture.resize=32",
        "--config.picture.crop=32",
        "--config.train.epochs=4",
        f"--config.train.batch_size={batch_size}",
        "--config.selection.protocol=last",
        "--config.optimizer.learning_rate=1e-4",
    ]
    count = f"--xla_force_host_platform_device_count={devices}"
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": count}
    path = folder / f"{devices}-{batch_size}"
    done = subprocess.run(
        [sys.executable, "-c", _RUN, str(path), *flags],
        env=environment, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1]), np.load(f"{path}.npz")["parameters"]


# 8 rows are cut among the devices; 7 cannot be, and every device computes all of them.
@pytest.mark.parametrize("batch_size", [8, 7])
def test_eight_devices_give_what_one_gives(tmp_path: Path, batch_size: int) -> None:
    prepared = prepared_folder(tmp_path)
    one, parameters = run(1, prepared, tmp_path, batch_size)
    eight, sharded = run(8, prepared, tmp_path, batch_size)
    assert (one["devices"], eight["devices"]) == (1, 8)
    assert (one["rows"], eight["rows"], eight["odd_rows"]) == (8, 1, 7)
    assert np.abs(sharded - parameters).max() / np.abs(parameters).max() < 1e-4
    assert one["test"] == eight["test"]
