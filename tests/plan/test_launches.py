"""Launches and bytes of a program for a GPU, and what its assembler says, by hand."""

from __future__ import annotations

from pathlib import Path

import pytest

from dedn_jax.plan.hlo import parse
from dedn_jax.plan.launches import Kernel, assemble, count_launches, summary

_TEXT = """\
HloModule jit_run, is_scheduled=true

%body (p: (s32[], f32[256])) -> (s32[], f32[256]) {
  %p = (s32[], f32[256]{0}) parameter(0)
  %x = f32[256]{0} get-tuple-element(%p), index=1
  %y = f32[256]{0} fusion(%x), kind=kLoop, calls=%f
  %i = s32[] add(%x, %x)
  ROOT %t = (s32[], f32[256]{0}) tuple(%i, %y)
}

%condition (q: (s32[], f32[256])) -> pred[] {
  %q = (s32[], f32[256]{0}) parameter(0)
  ROOT %less = pred[] fusion(%q), kind=kLoop, calls=%g
}

ENTRY %main (a: f32[256]) -> f32[256] {
  %a = f32[256]{0} parameter(0)
  %b = f32[256]{0} bitcast(%a)
  %k = f32[512]{0} custom-call(%b), custom_call_target="__gpu$xla.gpu.triton"
  %w = (s32[], f32[256]{0}) while(%t), condition=%condition, body=%body, \
backend_config={"known_trip_count":{"n":"5"}}
  ROOT %c = f32[256]{0} copy(%b)
}
"""

_PTX = """\
.version 8.8
.target sm_90a
.address_size 64
.visible .entry %s(
%s
"""

_ASSEMBLER = """\
#!/bin/sh
echo "ptxas info    : Compiling entry function 'pool' for '$2'" >&2
grep -q wgmma "$3" && echo "    8 bytes stack frame, 12 bytes spill stores, 4 bytes spill loads" >&2
echo "ptxas info    : Used 107 registers, used 1 barriers" >&2
"""


def test_launches_in_loops_count_as_often_as_they_run() -> None:
    found = count_launches(parse(_TEXT))
    # Kernel and copy; five turns of a fusion, a sum and the condition.
    assert found["launches"] == 2 + 5 * 3
    assert found["in_loops"] == 15
    assert found["read"] == 1024 + 1024 + 5 * (1024 + 1024)
    assert found["written"] == 2048 + 1024 + 5 * (1024 + 4 + 1)


def test_the_assembler_is_asked_for_every_kernel(tmp_path: Path) -> None:
    code, tools = tmp_path / "code", tmp_path / "tools"
    code.mkdir()
    (tools / "bin").mkdir(parents=True)
    (tools / "bin/ptxas").write_text(_ASSEMBLER)
    (tools / "bin/ptxas").chmod(0o755)
    (code / "1.ptx").write_text(_PTX % ("pool", "wgmma.fence;"))
    (code / "2.ptx").write_text(_PTX % ("copy", ""))
    (code / "3.ptx").write_text(".target sm_90a\n// constants alone\n")
    kernels = assemble(code, tools)
    assert kernels == [Kernel("pool", 107, 16, True), Kernel("copy", 107, 0, False)]
    assert summary(kernels) == {
        "kernels": 2,
        "most_registers": 107,
        "spilling": {"pool": 16},
        "with_matrix_units": 1,
    }
    assert summary([])["kernels"] == 0


@pytest.mark.parametrize("target", ["__cublas$gemm", "__triton"])
def test_calls_of_libraries_move_their_operands(target: str) -> None:
    found = count_launches(parse(_TEXT.replace("__gpu$xla.gpu.triton", target)))
    assert found["written"] == 2048 + 1024 + 5 * (1024 + 4 + 1)
