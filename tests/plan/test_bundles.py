"""Cycles of a kernel's final code, on a made-up piece of it."""

from __future__ import annotations

from pathlib import Path

from dedn_jax.plan.bundles import count_cycles, kernel_cycles

# A grid of 50 steps, whose copies run one step ahead and behind; an inner loop of 7 turns.
_CODE = """\
= control target key start
LB: loop body
= control target key end

     0   :  { %s1_s0 = smov.u32 0 } /* entry bundle: %pool.3 = custom-call(%a) */
   0x1   :  {}
   0x2 LB: > { %s2_s1 = sadd.s32 1, %s3_s1 /* iteration index, stage = 1 */ }
   0x3   :  {}
   0x4   : > { %v1 = vadd.f32 %v2, %v3 }
   0x5 LB: >> { %v4 = vadd.f32 %v2, %v3 }
   0x6   : >> { %p1_p2 = scmp.ge.s32.totalorder %s4_s2, 7 /* loop exit test */ }
   0x7 PF: > { %v5 = vadd.f32 %v2, %v3 }
   0x8   : > { %p2_p5 = scmp.ge.s32.totalorder %s2_s1, 52 /* loop exit test */ }
   0x9   :  { %1 = vsyncpa [#allocation9], 1 }
"""


def test_bundles_count_as_often_as_their_loops_run() -> None:
    assert count_cycles(_CODE) == 3 + 50 * (5 + 7 * 2)


def test_a_loop_of_unknown_length_has_no_cycles() -> None:
    unknown = _CODE.replace("totalorder %s4_s2, 7", "totalorder %s4_s2, %s9")
    assert count_cycles(unknown) is None
    assert count_cycles("nothing") is None
    copies = unknown.replace(
        "%v4 = vadd.f32 %v2, %v3", "%v4 = vld [vmem:%s8]  ;;  %5 = vst [vmem:%s9] %v4"
    )
    assert count_cycles(copies) == 3 + 50 * (5 + 2)


def test_files_are_found_by_the_names_of_instructions(tmp_path: Path) -> None:
    (tmp_path / "17-pool.3-01-final_bundles.txt").write_text(_CODE)
    (tmp_path / "17-pool.3-00-schedule-analysis_final_bundles.txt").write_text("nothing")
    (tmp_path / "18-fusion.4-01-final_bundles.txt").write_text(_CODE)
    assert kernel_cycles(tmp_path, ["pool.3", "pool.4"]) == {"pool.3": 953}
    assert kernel_cycles(tmp_path / "missing", ["pool.3"]) == {}
