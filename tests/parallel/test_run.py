"""What `dedn_jax.train` returns, on several processes."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.helpers.devices import free_port
from tests.helpers.forks import Forked
from tests.helpers.tiny import write_tiny

SCRIPT = """
import sys
from dedn_jax.parallel import joining
port, process, data, folder = sys.argv[1:]
joining.initialize(f"localhost:{port}", 2, int(process))
import dedn_jax
from tests.helpers.tiny import tiny_config

class Steps(dedn_jax.Callback):
    seen = 0

    def on_step(self, step, metrics):
        self.seen += 1

steps = Steps()
config = tiny_config(data, train__epochs=2, selection__protocol="last")
run = dedn_jax.train(config, folder, callbacks=[steps])
assert run.evaluate() == run.result["test"]  # on this process's own devices
assert (steps.seen > 0) == (process == "0")  # callbacks run in the main process alone
# A program may train again: what the processes compared before is not taken for what they do now.
config.seed = 7
assert dedn_jax.train(config, folder + "-again").result["seed"] == 7
"""


@pytest.mark.slow
def test_the_run_is_there_on_every_process(tmp_path: Path) -> None:
    data = write_tiny(tmp_path / "tiny.hdf5")
    port = str(free_port())
    started = [
        Forked("-c", SCRIPT, port, str(i), str(data), str(tmp_path / "run")) for i in range(2)
    ]
    for process in started:
        _, errors = process.communicate(timeout=300)
        assert process.returncode == 0, errors
