"""Replaying schedules made up by hand: what runs beside what."""

from __future__ import annotations

import dataclasses

import pytest

from dedn_jax.plan.chips import CHIPS, Slice, parse_slice
from dedn_jax.plan.exchange import exchange
from dedn_jax.plan.hlo import parse
from dedn_jax.plan.schedule import Schedule, replay

# A chip of a million cycles and ten million bytes a second; links as v5e's.
_CHIP = dataclasses.replace(CHIPS["v5e"], clock=1e6, bandwidth=1e7)
_MB = "f32[1000,250]{1,0}"
_NEAR = "f32[1000,250]{1,0:S(1)}"
_CYCLES = 'backend_config={"window_config":{"estimated_cycles":"%d"}}'


def _replay(body: str, others: str = "", chips: int = 1, **kernels: float) -> Schedule:
    text = f"HloModule m\n\n{others}\nENTRY %main (a: f32[1000,250]) -> f32[] {{\n"
    text += f"  %a = {_MB} parameter(0)\n{body}}}\n"
    on = dataclasses.replace(parse_slice(f"v5e:1x{chips}"), chip=_CHIP)
    return replay(parse(text), Slice(on.name, _CHIP, on.axes), kernels)


def _work(name: str, operand: str, cycles: int) -> str:
    config = _CYCLES % cycles
    return f"  %{name} = f32[8]{{0:S(1)}} fusion(%{operand}), kind=kLoop, calls=%f, {config}\n"


_COPY = f"  %s = ({_NEAR}, {_MB}, u32[]{{:S(2)}}) copy-start(%a)\n"
_DONE = f"  %d = {_NEAR} copy-done(%s)\n"


def test_a_copy_that_is_started_ahead_runs_beside_the_work() -> None:
    # A megabyte takes 0.1 s.
    short = _replay(_COPY + _work("w", "x", 40_000) + _DONE + _work("v", "d", 40_000))
    assert short.seconds == pytest.approx(0.1 + 0.04)
    long = _replay(_COPY + _work("w", "x", 240_000) + _DONE + _work("v", "d", 40_000))
    assert long.seconds == pytest.approx(0.24 + 0.04)
    assert (long.compute, long.memory) == (pytest.approx(0.28), pytest.approx(0.1))
    assert (long.read, long.written, long.exchange) == (1_000_000, 0, 0)


def test_an_operation_takes_its_cycles_or_its_bytes() -> None:
    assert _replay(_work("w", "a", 40_000)).seconds == pytest.approx(0.1)
    assert _replay(_work("w", "a", 140_000)).seconds == pytest.approx(0.14)


_LOOP = f"""
%body (p: (s32[])) -> (s32[]) {{
  %x = {_MB} parameter(0)
{_work("w", "x", 300_000)}}}

%condition (p: (s32[])) -> pred[] {{
  ROOT %c = pred[] fusion(%p), kind=kLoop, calls=%compare
}}
"""


@pytest.mark.parametrize(("known", "turns"), [('{"known_trip_count":{"n":"7"}}', 7), ("{}", 1)])
def test_loops_count_as_often_as_they_run(known: str, turns: int) -> None:
    loop = f"  %l = (s32[]) while(%t), condition=%condition, body=%body, backend_config={known}\n"
    found = _replay(loop, _LOOP)
    assert found.seconds == found.compute == pytest.approx(0.3 * turns)
    assert found.read == 1_000_000 * turns
    assert [(o.name, o.runs) for o in found.operations] == [("w", turns)]


def test_small_operations_are_latency() -> None:
    found = _replay(_work("w", "x", 1) + _work("v", "x", 40_000))
    assert (found.latency, found.compute) == (pytest.approx(1e-6), pytest.approx(0.04))


def test_a_kernel_has_the_cycles_of_its_code() -> None:
    kernel = f'  %k = {_MB} custom-call(%a), custom_call_target="tpu_custom_call"\n'
    found = _replay(kernel)
    assert (found.kernels, found.seconds) == (1, pytest.approx(0.2))  # in and out
    found = _replay(kernel, k=500_000.0)
    assert (found.kernels, found.seconds) == (0, pytest.approx(0.5))


def test_collectives_run_alone_unless_started_ahead() -> None:
    near = _NEAR.replace("1000,250", "1000,250000")  # a gigabyte on the chip
    took = exchange("all-reduce", 1e9, 8, parse_slice("v5e:1x8"))
    alone = f"  %r = {near} all-reduce(%x), to_apply=%sum\n" + _work("w", "x", 30_000)
    found = _replay(alone, chips=8)
    assert found.seconds == pytest.approx(sum(took) + 0.03)
    assert (found.exchange, found.latency) == (pytest.approx(took[0]), pytest.approx(took[1]))
    ahead = (
        f"  %r = {near} all-reduce-start(%x), to_apply=%sum\n{_work('w', 'x', 30_000)}"
        f"  %e = {near} all-reduce-done(%r)\n{_work('v', 'x', 10_000)}"
    )
    assert _replay(ahead, chips=8).seconds == pytest.approx(max(sum(took), 0.03) + 0.01)


_PIECE = """
%piece (p: f32[1000,250000]) -> f32[1000,250000] {
  ROOT %ag = f32[1000,250000]{1,0:S(1)} all-gather(%p), dimensions={0}, \
frontend_attributes={chain_id="0"}
}
"""


def test_a_collective_in_pieces_runs_from_the_first_to_the_last() -> None:
    piece = "  %%%s = f32[1000,250000]{1,0:S(1)} fusion(%%x), kind=kCustom, calls=%%piece\n"
    body = piece % "first" + _work("w", "x", 3_000) + piece % "last" + _work("v", "x", 20_000)
    took = sum(exchange("all-gather", 1e9, 8, parse_slice("v5e:1x8")))
    found = _replay(body, _PIECE, chips=8)
    assert took > 0.003
    assert found.seconds == pytest.approx(took + 0.02)
    assert found.exchange == pytest.approx(took, rel=1e-2)
    # In a loop it runs in every turn.
    loop = '  %l = (s32[]) while(%t), condition=%c, body=%b, known_trip_count={"n":"3"}\n'
    turns = f"{_PIECE}\n%b (p: (s32[])) -> (s32[]) {{\n{piece % 'first'}{piece % 'last'}}}\n"
    assert _replay(loop, turns, chips=8).seconds == pytest.approx(3 * took)
