"""Reading the text of compiled programs, on pieces of real ones."""

from __future__ import annotations

import pytest

from dedn_jax.plan.collectives import Traffic, read_program
from dedn_jax.plan.hlo import arrays

# A TPU program, shortened: the loop's length stands in its condition.
_TPU = """\
HloModule jit_train_step, is_scheduled=true

%region_24.27.clone (x: f32[], y: f32[]) -> f32[] {
  %x = f32[]{:T(128)} parameter(0)
  %y = f32[]{:T(128)} parameter(1)
  ROOT %add = f32[]{:T(128)} add(%x, %y)
}

%wide.region_0.4_spmd.sunk (wide.param.2: (s32[], f32[7,624])) -> (s32[], f32[7,624]) {
  %all-gather.7 = f32[56,196,2048]{2,1,0:T(8,128)S(1)} all-gather(%g), channel_id=1, \
replica_groups=mesh['axis_0'=8,'axis_1'=1] {'axis_0'}, dimensions={0}
  ROOT %tuple.1 = (s32[]{:T(128)}, f32[7,624]{1,0:T(8,128)S(1)}) tuple(%i, %b)
}

%wide.region_4.0_spmd (wide.param.1: (s32[], f32[7,624])) -> pred[] {
  %constant.41.clone.1 = s32[]{:T(128)} constant(56)
  ROOT %lt.3 = pred[]{:T(512)} compare(%g, %constant.41.clone.1), direction=LT
}

ENTRY %main.11_spmd (param: f32[7,196,2048]) -> (f32[]) {
  %while.17 = (s32[]{:T(128)}, f32[7,624]{1,0:T(8,128)S(1)}) while(%tuple.239), \
condition=%wide.region_4.0_spmd, body=%wide.region_0.4_spmd.sunk
  %all-reduce.15 = (f32[624,196]{0,1:T(8,128)S(1)}, f32[]{:T(128)}, /*index=2*/f32[]{:T(128)}) \
all-reduce(%a, %b, %c), channel_id=2, to_apply=%region_24.27.clone
  ROOT %t = (f32[]{:T(128)}) tuple(%all-reduce.15)
}
"""

_OTHERS = """\
HloModule jit_f

%sum (x: f32[], y: f32[]) -> f32[] {
  ROOT %add = f32[] add(%x, %y)
}

%body (p: (s32[])) -> (s32[]) {
  %ar = bf16[10]{0} all-reduce-start(%x), replica_groups={{0,1,2,3}}, to_apply=%sum
  %done = bf16[10]{0} all-reduce-done(%ar)
}

%condition (p: (s32[])) -> pred[] {
  ROOT %c = pred[] fusion(%p), kind=kLoop, calls=%compare
}

%scattered (p: f32[8]) -> f32[2] {
  ROOT %rs = f32[2]{0} reduce-scatter(%p), replica_groups={{0,1,2,3}}, to_apply=%sum
}

ENTRY %main (p: f32[8]) -> f32[8] {
  %w = (s32[]) while(%t), condition=%condition, body=%body, \
backend_config={"known_trip_count":{"n":"7"},"known_init_step":{"init":"0","step":"1"}}
  %u = (s32[]) while(%t), condition=%condition, body=%body
  %ag = (f32[2]{0}, f32[8]{0}) all-gather-start(%p), dimensions={0}
  %agd = f32[8]{0} all-gather-done(%ag)
  %async = ((f32[8]), f32[2], s32[]) async-start(%p), calls=%scattered
  %cp = f32[8]{0} collective-permute(%p), source_target_pairs={{0,1}}
  %mentioned = f32[8] add(%agd, %p), metadata={op_name="all-reduce(of nothing"}
}
"""


def test_a_collective_in_a_loop_counts_as_often_as_the_loop_runs() -> None:
    program = read_program(_TPU, 8)
    assert program.trips == [56]
    assert program.unknown_loops == 0
    assert program.traffic == {
        "all-gather": Traffic(56, 56 * 56 * 196 * 2048 * 4, 56 * 196 * 2048 * 4),
        "all-reduce": Traffic(1, 624 * 196 * 4 + 2 * 4, 624 * 196 * 4 + 2 * 4),
    }


def test_started_nested_and_unknown() -> None:
    program = read_program(_OTHERS, 4)
    assert sorted(program.trips) == [1, 7]
    assert program.unknown_loops == 1
    assert program.traffic == {
        "all-gather": Traffic(1, 32, 32),
        "all-reduce": Traffic(8, 8 * 20, 20),
        "collective-permute": Traffic(1, 32, 32),
        "reduce-scatter": Traffic(1, 32, 32),
    }


@pytest.mark.parametrize(
    ("text", "sizes"),
    [
        ("f32[2,3]{1,0:T(8,128)}", [24]),
        ("(bf16[4], pred[], s4[8])", [8, 1, 4]),
        ("f8e4m3fn[16]", [16]),
        ("token[]", []),
    ],
)
def test_bytes_of_shapes(text: str, sizes: list[int]) -> None:
    assert [a.unpadded for a in arrays(text)] == sizes


_FUSED = """\
HloModule jit_train_step

%piece (p: f32[25,157]) -> f32[4,157,25] {
  ROOT %all-gather.11 = f32[4,157,25]{1,2,0} all-gather(%p), channel_id=3, dimensions={0}, \
frontend_attributes={chain_id="0"}
}

%body (p: (s32[])) -> (s32[]) {
  %fusion.1 = f32[4,157,25]{1,2,0} fusion(%x), kind=kCustom, calls=%piece
}

ENTRY %main (p: f32[25,157]) -> f32[4,157,25] {
  %start = f32[4,157,25]{1,2,0} fusion(%p), kind=kCustom, calls=%piece
  %w = (s32[]) while(%t), condition=%c, body=%body, backend_config={"known_trip_count":{"n":"25"}}
  %all-gather.22 = f32[4,157,25]{1,2,0} all-gather(%p), channel_id=3, dimensions={0}
  ROOT %done = f32[4,157,25]{1,2,0} fusion(%w), kind=kCustom, calls=%piece
}
"""


def test_a_collective_that_goes_on_beside_a_loop_runs_once() -> None:
    """It is written into every operation that it is hidden behind."""
    assert read_program(_FUSED, 8).traffic == {
        "all-gather": Traffic(2, 2 * 4 * 157 * 25 * 4, 4 * 157 * 25 * 4)
    }
