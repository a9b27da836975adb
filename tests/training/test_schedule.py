"""What is due after which step."""

from __future__ import annotations

from dedn_jax.config import load_config
from dedn_jax.training.schedule import Schedule


def test_everything_is_due_after_the_last_step() -> None:
    schedule = Schedule(10, log_every=4, evaluate_every=3, checkpoint_every=5, label="classes")
    steps = range(1, 11)
    assert [s for s in steps if schedule.logs(s)] == [4, 8, 10]
    assert [s for s in steps if schedule.evaluates(s)] == [3, 6, 9, 10]
    assert [s for s in steps if schedule.saves(s)] == [5, 10]
    assert [schedule.next_due(s) for s in range(10)] == [3, 3, 3, 5, 5, 6, 9, 9, 9, 10]
    assert [schedule.max_steps(n) for n in (1, 2, 8)] == [1, 2, 3]


def test_intervals_of_a_config() -> None:
    config = load_config("base", ["--config.train.epochs=7"])
    assert Schedule.from_config(config, 100, "classes").evaluate_every == 14  # once an epoch
    assert Schedule.from_config(config, 3, "classes").evaluate_every == 1
    config.train.evaluate_every = 9
    assert Schedule.from_config(config, 100, "classes").evaluate_every == 9
    silent = Schedule.from_config(config, 100, None)
    assert silent.evaluate_every == 100
    assert not any(map(silent.evaluates, range(1, 101)))
