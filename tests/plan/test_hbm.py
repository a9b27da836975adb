"""Bytes through main memory, on pieces of compiled TPU programs."""

from __future__ import annotations

import pytest

from dedn_jax.plan.hbm import moved
from dedn_jax.plan.hlo import arrays, parse

_TEXT = """\
HloModule jit_run, is_scheduled=true

%slices (p0: f32[50,8,128], p1: s32[]) -> f32[1,8,128] {
  %p0 = f32[50,8,128]{2,1,0:T(8,128)} parameter(0)
  %p1 = s32[]{:T(128)} parameter(1)
  %same = f32[50,8,128]{2,1,0:T(8,128)} bitcast(%p0)
  ROOT %ds = f32[1,8,128]{2,1,0:T(8,128)} dynamic-slice(%same, %p1, %p1, %p1), \
dynamic_slice_sizes={1,8,128}
}

%updates (q0: f32[50,8,128], q1: f32[1,8,128], q2: s32[]) -> f32[50,8,128] {
  %q0 = f32[50,8,128]{2,1,0:T(8,128)} parameter(0)
  %q1 = f32[1,8,128]{2,1,0:T(8,128)} parameter(1)
  %q2 = s32[]{:T(128)} parameter(2)
  %dus = f32[50,8,128]{2,1,0:T(8,128)} dynamic-update-slice(%q0, %q1, %q2, %q2, %q2)
  ROOT %b = f32[50,8,128]{2,1,0:T(8,128)} bitcast(%dus)
}

%whole (r0: f32[50,8,128]) -> (f32[8,128], f32[8,128]) {
  %r0 = f32[50,8,128]{2,1,0:T(8,128)} parameter(0)
  %n = f32[8,128]{1,0:T(8,128)} reduce(%r0, %r0), dimensions={0}, to_apply=%sum
  ROOT %t = (f32[8,128]{1,0:T(8,128)}, f32[8,128]{1,0:T(8,128)}) tuple(%n, %n)
}

%asynchronous (s0: f32[50,8,128]) -> f32[2,8,128] {
  %s0 = f32[50,8,128]{2,1,0:T(8,128)} parameter(0)
  ROOT %sl = f32[2,8,128]{2,1,0:T(8,128)} slice(%s0), slice={[0:2], [0:8], [0:128]}
}

ENTRY %main (a: f32[50,8,128], b: f32[100,200], i: s32[]) -> f32[50,8,128] {
  %a = f32[50,8,128]{2,1,0:T(8,128)} parameter(0)
  %b = f32[100,200]{1,0:T(8,128)} parameter(1)
  %i = s32[]{:T(128)S(6)} parameter(2)
  %c = f32[1,8,128]{2,1,0:T(8,128)S(1)} custom-call(), custom_call_target="AllocateBuffer"
  %slice_fusion = f32[1,8,128]{2,1,0:T(8,128)S(1)} fusion(%a, %i), kind=kLoop, calls=%slices
  %update_fusion = f32[50,8,128]{2,1,0:T(8,128)} fusion(%a, %c, %i), kind=kLoop, calls=%updates
  %whole_fusion = (f32[8,128]{1,0:T(8,128)}, f32[8,128]{1,0:T(8,128)S(1)}) fusion(%a), \
kind=kLoop, calls=%whole
  %in = (f32[100,200]{1,0:T(8,128)S(1)}, f32[100,200]{1,0:T(8,128)}, u32[]{:S(2)}) copy-start(%b)
  %here = f32[100,200]{1,0:T(8,128)S(1)} copy-done(%in)
  %part = ((f32[100,200]{1,0:T(8,128)}), f32[80,200]{1,0:T(8,128)S(1)}, s32[]{:S(2)}) \
slice-start(%b), slice={[0:80], [0:200]}
  %out = (f32[100,200]{1,0:T(8,128)}, f32[100,200]{1,0:T(8,128)S(1)}, u32[]{:S(2)}) \
copy-start(%here)
  %start = ((f32[50,8,128]{2,1,0:T(8,128)}), f32[2,8,128]{2,1,0:T(8,128)}, u32[]{:S(2)}) \
async-start(%a), calls=%asynchronous
  %add = f32[100,200]{1,0:T(8,128)} add(%b, %here)
  %kernel = f32[8,128]{1,0:T(8,128)} custom-call(%a, %here), custom_call_target="tpu_custom_call"
  %looks_up = f32[8,128]{1,0:T(8,128)} custom-call(%i, %a), custom_call_target="tpu_custom_call", \
backend_config={"custom_call_config":{"cost_estimate":{"bytes_accessed":"12288","flops":"1"}}}
  %picked = f32[1,8,128]{2,1,0:T(8,128)} dynamic-slice(%a, %i, %i, %i), \
dynamic_slice_sizes={1,8,128}
  ROOT %written = f32[50,8,128]{2,1,0:T(8,128)} dynamic-update-slice(%a, %picked, %i, %i, %i)
}
"""
_IMAGE, _ALL, _PADDED = 8 * 128 * 4, 50 * 8 * 128 * 4, 104 * 256 * 4


@pytest.mark.parametrize(
    ("name", "read", "written"),
    [
        ("a", 0, 0),
        ("c", 0, 0),
        ("slice_fusion", _IMAGE, 0),
        ("update_fusion", 0, _IMAGE),
        ("whole_fusion", _ALL, _IMAGE),  # the second result stays on the chip
        ("in", _PADDED, 0),
        ("here", 0, 0),
        ("part", 80 * 256 * 4, 0),
        ("out", 0, _PADDED),
        ("start", 2 * _IMAGE, 2 * _IMAGE),
        ("add", _PADDED, _PADDED),
        ("kernel", _ALL, _IMAGE),
        ("looks_up", 2 * _IMAGE, _IMAGE),
        ("picked", _IMAGE, _IMAGE),
        ("written", _IMAGE, _IMAGE),
    ],
)
def test_bytes_of_an_instruction(name: str, read: int, written: int) -> None:
    module = parse(_TEXT)
    assert moved(module, "main", module.by_name["main"][name]) == (read, written)


@pytest.mark.parametrize(
    ("text", "nbytes", "space"),
    [
        ("f32[300,196]{0,1:T(8,128)}", 384 * 200 * 4, 0),
        ("f32[1,50,624,196]{2,0,3,1:T(1,128)S(1)}", 640 * 196 * 50 * 4, 1),
        ("bf16[50,2048,196]{2,1,0:T(8,128)(2,1)}", 256 * 2048 * 50 * 2, 0),
        ("pred[]{:T(512)S(6)}", 1, 6),
        ("f32[7,5]", 140, 0),
    ],
)
def test_arrays_are_padded_to_tiles(text: str, nbytes: int, space: int) -> None:
    (array,) = arrays(text)
    assert (array.nbytes, array.space) == (nbytes, space)
