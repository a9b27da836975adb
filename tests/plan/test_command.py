"""`dedn plan` from its flags to its table."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pytest

from dedn_jax.cli.plan import add_plan
from dedn_jax.errors import InputError

_SMALL = ["--images=100", "--classes=8", "--attributes=6", "--channels=12", "--regions=8"]


def _run(*flags: str) -> None:
    parser = argparse.ArgumentParser()
    add_plan(parser.add_subparsers())
    args, overrides = parser.parse_known_args(["plan", "--config=cub_gzsl", *flags])
    args.run(args, [*overrides, "--config.data.path=none"])


def test_from_flags_to_table_and_json(tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    out = tmp_path / "plan.json"
    _run("--platform=cpu", "--topology=cpu", f"--json={out}", *_SMALL)
    printed, said = capfd.readouterr()
    assert "50 -> 56" in printed and "| yes" in printed
    assert said == "compiling train for cpu, batch 56\n"
    (row,) = json.loads(out.read_text())["rows"]
    assert row["fits"] and row["steps"] == 100 * 80 // 50
    assert row["compiled"]["chips"] == 8


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--topology=v9:2x2"], "--topology: 'v9:2x2', expected a chip of v4"),
        (["--topology=v5e:2x4", "--timeout=0"], "--timeout=0, expected more than 0 seconds"),
        (["--topology=v5e:2x4", "--attributes=-1"], "--attributes=-1, expected at least 1"),
        (["--topology=v5e:2x4", "--json=plan.txt"], "ends in .json"),
        ([], "give --topology, such as v5e:4x8, or --device, such as h100"),
        (["--device=a9"], "--device: 'a9', expected h100 or h200"),
        (["--topology=v5litepod-12"], "has 12 chips: expected a power of two up to 256"),
        (["--topology=v5e:2x4", "--price=cheap"], "--price='cheap', expected a number or one for"),
        (["--topology=v5e:2x4", "--price=v6e=1"], "each chip of v5e, such as v5e=1.2"),
        (["--topology=v5e:2x4,v6e:2x4", "--price=1,2"], "expected a number or one for each"),
        (["--topology=v5e:2x4", "--price=nan"], "expected a number or one for each"),
    ],
)
def test_mistakes_are_one_line(flags: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message) as error:
        _run(*flags)
    assert "\n" not in str(error.value)
