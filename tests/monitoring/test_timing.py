"""Ways to train, timed with planted seconds: what is found faster is advised, and noise is not."""

import itertools
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from test_checks import TIMED

from mtfscalper.monitoring.advice import advise, whole_gain
from mtfscalper.monitoring.choices import Abilities, Choice, alternatives, as_config
from mtfscalper.monitoring.plan import _merged_config
from mtfscalper.monitoring.timing import Budget, Gain, PerStep, TrialError, gain, time_choices
from mtfscalper.settings import Settings

ROOT = Path(__file__).parents[2]
YOURS = Choice("subproc", 2, 2, "fp32", "cpu")
TWO_CORES = Abilities(2, ("cpu",), ("cpu",), ("subproc", "dummy", "batched", "torch"))
OTHERS = alternatives(YOURS, TWO_CORES)


class Machine:
    """A machine whose rounds take what is planted; its clock moves on with them."""

    def __init__(self, seconds: Callable[[Choice, int], float]) -> None:
        self._seconds, self.now, self.rounds = seconds, 0.0, itertools.count()
        self.told: list[tuple[str, float]] = []

    def run(self, choice: Choice) -> PerStep:
        self.now += 0.25
        return PerStep(self._seconds(choice, next(self.rounds)), 0.0)

    def budget(self, seconds: float) -> Budget:
        return Budget(seconds, lambda: self.now, lambda what, left: self.told.append((what, left)))


def rollout_of(choice: Choice, _: int) -> float:
    """``batched`` takes half, one thread a little longer."""
    return {"subproc": 1.0, "dummy": 0.9, "batched": 0.5, "torch": 3.0}[choice.vec_env] + 0.1 * (choice.cpu_count == 1)


def test_alternatives_differ_in_one_key_and_are_within_the_machine() -> None:
    assert {key: [getattr(one, key) for one in choices] for key, choices in OTHERS.items()} == {
        "vec_env": ["dummy", "batched", "torch"],
        "cpu_count": [1],
        "interop_threads": [1],
        "precision": ["bf16"],
    }
    sixteen = alternatives(YOURS, Abilities(12, ("cpu", "cuda"), (), ("subproc", "batched")))
    assert [one.cpu_count for one in sixteen["cpu_count"]] == [1, 4, 8, 12]
    assert "precision" not in sixteen
    assert [one.device for one in sixteen["device"]] == ["cuda"]


def test_a_gpu_is_tried_in_each_precision_and_with_the_environments_on_it() -> None:
    with_gpu = Abilities(2, ("cpu", "cuda"), ("cuda",), ("subproc", "torch"))
    tried = alternatives(YOURS, with_gpu)["device"]
    assert [(one.vec_env, one.precision, one.device) for one in tried] == [
        ("subproc", "fp32", "cuda"),
        ("torch", "fp32", "cuda"),
        ("subproc", "bf16", "cuda"),
        ("torch", "bf16", "cuda"),
    ]
    # From there, the processor: with the environments that are.
    on_gpu = YOURS._replace(device="cuda", precision="bf16")
    assert alternatives(on_gpu, with_gpu)["device"] == [YOURS]


def test_what_settings_would_refuse_is_not_tried() -> None:
    tried = alternatives(YOURS, TWO_CORES, lambda choice: choice.vec_env != "dummy")
    assert [one.vec_env for one in tried["vec_env"]] == ["batched", "torch"]
    assert "vec_env" not in alternatives(YOURS, TWO_CORES, lambda choice: choice.vec_env == "subproc")


def test_where_settings_refuse_what_was_put_together_the_best_single_one_is_advised() -> None:
    def seconds(choice: Choice, _: int) -> float:
        return (0.5 if choice.vec_env == "batched" else 1.0) * (0.8 if choice.precision == "bf16" else 1.0)

    def accepts(choice: Choice) -> bool:
        return not (choice.vec_env == "batched" and choice.precision == "bf16")

    machine = Machine(seconds)
    found = time_choices(YOURS, OTHERS, 10, machine.run, machine.budget(60.0), accepts)
    assert found.best is not None
    assert found.best[0] == YOURS._replace(vec_env="batched")


def test_what_is_faster_is_found_and_confirmed_in_rounds_of_its_own() -> None:
    machine = Machine(rollout_of)
    found = time_choices(YOURS, OTHERS, 10, machine.run, machine.budget(60.0))
    assert found.best is not None
    choice, confirmed = found.best
    assert choice == YOURS._replace(vec_env="batched")
    assert confirmed.ratio == pytest.approx(2.0)
    assert confirmed.rounds >= 5
    assert found.per_step.rollout == 1.0
    assert machine.now <= 60.0
    left = [seconds for _, seconds in machine.told]
    assert left == sorted(left, reverse=True)


def test_noise_is_no_gain() -> None:
    # Up to 30 % apart from round to round, the same for all choices on average.
    machine = Machine(lambda _, round_: 1.0 + 0.3 * ((round_ * 7919) % 101) / 101)
    found = time_choices(YOURS, OTHERS, 10, machine.run, machine.budget(60.0))
    assert found.best is None
    said = advise(replace(TIMED, timed=found), 2)
    assert said.headline.startswith("No gain found, keep yours")
    assert said.config == {}


def test_what_only_looked_faster_is_not_advised() -> None:
    # bf16 is twice as fast as long as the others are looked at, and not when it is looked at once more.
    machine = Machine(lambda choice, round_: 0.5 if choice.precision == "bf16" and round_ < 140 else 1.0)
    found = time_choices(YOURS, OTHERS, 10, machine.run, machine.budget(60.0))
    assert {key: one for key, _, one in found.beside}["precision"] == Gain(2.0, 2.0, 2.0, 19)
    assert found.best is None
    said = advise(replace(TIMED, timed=found), 2)
    assert "not 5% faster beyond noise when it was timed once more" in said.headline
    assert said.config == {}


def test_what_spoils_a_combination_does_not_hide_the_fastest_single_change() -> None:
    def seconds(choice: Choice, _: int) -> float:
        # Each of the two is faster by itself, and both together slower.
        batched, bf16 = choice.vec_env == "batched", choice.precision == "bf16"
        return 1.5 if batched and bf16 else 0.5 if batched else 0.8 if bf16 else 1.0

    machine = Machine(seconds)
    found = time_choices(YOURS, OTHERS, 10, machine.run, machine.budget(60.0))
    assert found.best is not None
    assert found.best[0] == YOURS._replace(vec_env="batched")


def test_too_little_time_is_said_and_advises_nothing() -> None:
    machine = Machine(rollout_of)
    found = time_choices(YOURS, OTHERS, 10, machine.run, machine.budget(5.0))
    assert found.best is None
    assert "give more --seconds" in advise(replace(TIMED, timed=found), 2).headline


def test_a_way_that_cannot_run_is_named_and_the_others_are_timed() -> None:
    def run(choice: Choice) -> PerStep:
        if choice.vec_env == "torch":
            raise TrialError("torch: no memory")
        return machine.run(choice)

    machine = Machine(rollout_of)
    found = time_choices(YOURS, OTHERS, 10, run, machine.budget(60.0))
    assert found.problems == ("torch: no memory",)
    assert found.best is not None
    said = advise(replace(TIMED, timed=found), 2)
    assert "Not timed: torch: no memory." in said.remarks
    assert ("vec_env 'torch'", "-", "could not run") in said.rows


def test_the_users_own_way_must_run() -> None:
    def run(choice: Choice) -> PerStep:
        raise TrialError("no memory")

    with pytest.raises(TrialError, match="no memory"):
        time_choices(YOURS, OTHERS, 10, run, Machine(rollout_of).budget(60.0))


@pytest.mark.parametrize(
    ("n", "low", "high"),
    # Between the k-th of n ordered ratios from each side: P = 1 - 2 * sum of binomials(n, i < k) / 2^n >= 0.9.
    [(1, 1, 1), (4, 1, 4), (5, 1, 5), (7, 1, 7), (8, 2, 7), (11, 3, 9)],
)
def test_the_interval_of_the_median(n: int, low: int, high: int) -> None:
    found = gain([float(i) for i in range(n, 0, -1)], [1.0] * n)
    assert (found.low, found.high, found.rounds) == (low, high, n)
    assert found.is_found == (n >= 5 and low >= 1.05)


BEST = Choice("batched", 1, 1, "bf16", "cpu")


def test_the_advice_loads_as_one_more_config(tmp_path: Path) -> None:
    timed = TIMED.timed._replace(candidate=(BEST, Gain(2.0, 1.8, 2.2, 9)))
    said = advise(replace(TIMED, timed=timed), 2)
    assert said.headline.startswith("Rollouts and updates 2.00 times as fast (1.80 to 2.20 in 9 rounds side by side)")
    path = tmp_path / "advice.json"
    path.write_text(said.pasted)
    config = _merged_config([ROOT / "configs" / "config_rl_hybrid.json", path], {"rl_config": {}})
    settings = Settings.from_config(config)
    rl = settings.rl
    assert (rl.vec_env, rl.cpu_count, rl.interop_threads, rl.precision) == ("batched", 1, 1, "bf16")
    assert json.loads(said.pasted) == as_config(YOURS.differences(BEST))


def test_what_a_whole_training_gains_is_less_and_said() -> None:
    # Half of it is twice as fast: 1 / (0.5 + 0.5 / 2).
    assert whole_gain(2.0, 0.5) == pytest.approx(1 / 0.75)
    timed = TIMED.timed._replace(candidate=(BEST, Gain(2.0, 1.8, 2.2, 9)))
    said = advise(replace(TIMED, timed=timed, rest_share=0.5), 2)
    assert any("about 1.33 times as fast, for 50%" in remark for remark in said.remarks)


def test_advice_from_a_busy_machine_says_so() -> None:
    timed = TIMED.timed._replace(candidate=(BEST, Gain(2.0, 1.8, 2.2, 9)))
    busy = replace(TIMED, timed=timed, others_cores=0.97)
    said = advise(busy, 2)
    assert "while other programs used 1.0 of 2 cores" in said.headline
    assert "Run it again alone" in said.remarks[0]
    assert "other programs" not in advise(replace(busy, others_cores=0.2), 2).headline
    # Where nothing was found too.
    assert "Run it again alone" in advise(replace(TIMED, others_cores=0.97), 2).remarks[0]


def test_every_value_that_can_be_advised_is_one_that_settings_accept() -> None:
    everything = Abilities(16, ("cpu", "cuda"), ("cpu", "cuda"), ("subproc", "dummy", "batched", "torch"))
    for choices in alternatives(YOURS, everything).values():
        for choice in choices:
            Settings.from_config(as_config(YOURS.differences(choice)))
