"""The beginning of a study: what is searched, on which candles, by which seeds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from freqtrade.configuration import TimeRange
from freqtrade.exceptions import OperationalException
from freqtrade.exchange import timeframe_to_msecs
from freqtrade.optimize.backtesting import Backtesting
from freqtrade.resolvers import ExchangeResolver
from freqtrade.strategy import IStrategy

from mtfscalper import artefacts
from mtfscalper.freqai.backtester import checked_model
from mtfscalper.freqai.own_reward import users_reward
from mtfscalper.freqai.strategy_parameters import parameter_complaint, parameters_of
from mtfscalper.freqai.strategy_rules import settings_of_strategy
from mtfscalper.machine import usable_processors
from mtfscalper.reporting.run_result import DAY_MS
from mtfscalper.search.cut_candles import cut_candles, span_ms
from mtfscalper.search.errors import StudyError
from mtfscalper.search.same_study import SameStudy, compared_config, files_of, hashes_of, study_code
from mtfscalper.search.space import SECTION, Floats, Searched, SearchSpace, path_of
from mtfscalper.search.study_folder import StudyFolder, StudySpec
from mtfscalper.settings import Settings

# Environment i of a training starts with seed + i, the members of an ensemble with seeds of their own near by.
_SEED_STEP = 2**20
_SEEDS = 2**31 // _SEED_STEP


class Asked(NamedTuple):
    """What the user asks for, beside freqtrade's arguments.

    :ivar holdout_days: the last ones, which no trial may read
    :ivar seeds: of each trial
    :ivar test_seeds: of a judgement
    :ivar n_envs: environments of each training; None for the config's
    :ivar workers: among which this machine's processors are divided
    :ivar seed: from which all others are drawn; None for a new one
    """

    holdout_days: int = 42
    seeds: int = 3
    test_seeds: int = 5
    n_envs: int | None = None
    workers: int = 1
    seed: int | None = None


class Traded(NamedTuple):
    """What a config trades.

    :ivar pairs: of the whitelist
    :ivar own_reward: whether the model's reward is the user's own
    :ivar candle_pairs: whose candles are read, those among them
    :ivar startup_candles: before the first candle that is traded on, those of the training among them
    """

    strategy: IStrategy
    own_reward: bool
    pairs: tuple[str, ...]
    candle_pairs: tuple[str, ...]
    startup_candles: int


def begin_study(folder: StudyFolder, arguments: Sequence[str], config: dict[str, Any], asked: Asked) -> StudySpec:
    """Check what a study would search, copy its candles and make its spec, which is for the caller to write.

    :param arguments: of ``freqtrade backtesting``
    :param config: that they give
    :raises StudyError: if it cannot be, as :class:`OperationalException`
    """
    space, settings = SearchSpace.from_config(config), settings_of_strategy(config)
    with _traded(config) as traded:
        _check_space(space, config, traded)
        spec = _spec(folder, arguments, config, asked, space, settings, traded)
        with_settings(spec, config, space)
        datadir = Path(config["datadir"])
        candles = copy_candles(folder, config, datadir, traded.candle_pairs, spec.lock_ms)
    return StudySpec(**{**vars(spec), "candles": candles})


def join_study(folder: StudyFolder, arguments: Sequence[str], config: dict[str, Any], shared: StudySpec) -> StudySpec:
    """Take part in a study that another machine has begun: copy the same candles and write its spec here.

    :param shared: as the storage has it
    :raises StudyError: if this machine would measure something else
    """
    datadir = Path(config["datadir"])
    with _traded(config) as traded:
        SameStudy(shared, arguments, config, traded.strategy).check_loaded()
        candles = copy_candles(folder, config, datadir, traded.candle_pairs, shared.lock_ms)
    if candles != shared.candles:
        raise StudyError(
            f"the candles of {datadir} up to {datetime.fromtimestamp(shared.lock_ms / 1000, UTC):%Y-%m-%d} are others "
            f"than those that the study {shared.name} began with; accepted: the same; remedy: copy them from the "
            "machine that began it"
        )
    spec = StudySpec(**{**vars(shared), "arguments": tuple(arguments), "datadir": str(datadir.resolve())})
    folder.write_spec(spec)
    return spec


def copy_candles(folder: StudyFolder, config: dict[str, Any], datadir: Path, pairs: Sequence[str], lock_ms: int) -> str:
    """Copy candles into a study's folder; what a broken beginning left there is replaced."""
    if folder.candles.exists():
        import shutil

        shutil.rmtree(folder.candles)
    return cut_candles(config, datadir, folder.candles, pairs, lock_ms)


def check_begun(spec: StudySpec, given: Mapping[str, int]) -> None:
    """Refuse options that a study could no longer obey.

    :param given: by the names of :class:`Asked`
    :raises StudyError: if one is another than when the study began
    """
    locked = TimeRange.parse_timerange(spec.locked)
    began: dict[str, Any] = {
        "holdout_days": (locked.stopts - locked.startts) * 1000 // DAY_MS,
        "seeds": len(spec.tuning_seeds),
        "test_seeds": len(spec.test_seeds),
        "n_envs": spec.overlay["freqai"]["rl_config"].get("n_envs"),
    }
    for name, value in given.items():
        same = _entropy(value) == spec.sampler_seed if name == "seed" else value == began[name]
        if not same:
            option = f"--{name.replace('_', '-')}"
            as_begun = "another" if name == "seed" else began[name] or "that of the config"
            raise StudyError(
                f"{option} is {value}, and the study {spec.name} began with {as_begun}; accepted: the same; remedy: "
                f"leave {option} away, or begin another study with --study"
            )


def _entropy(seed: int | None) -> int:
    return int(np.random.SeedSequence(seed).generate_state(1)[0])


def _first_parameters(
    space: SearchSpace, settings: Settings, config: dict[str, Any], strategy: IStrategy
) -> dict[str, Any]:
    """The config's own values of what is searched, as far as they lie in the space: the study's first trial.

    :return: as Optuna keeps them
    """
    strategy_values = {name: parameter.value for name, parameter in parameters_of(strategy).items()}
    values = {}
    for key, of in space.searched.items():
        value = _value_in_force(key, settings, config, strategy_values)
        if value is not None and _holds(of, value):
            values[key] = float(value) if isinstance(of, Floats) else value
    return space.stored(values)


def _value_in_force(key: str, settings: Settings, config: Mapping[str, Any], strategy: Mapping[str, Any]) -> Any:
    *sections, name = path_of(key)
    if key.startswith("strategy."):
        return strategy.get(name)
    if key.startswith("freqai."):
        return {"conv_width": settings.lookback}.get(name, config["freqai"].get(name))
    if "terms" in sections:
        return settings.rl.model_reward_parameters.terms.get(name)
    if key.startswith("reward."):
        # Of a reward of the user's own any key may be one of its parameters, and stands in the config alone.
        written = config["freqai"].get("rl_config", {}).get("model_reward_parameters") or {}
        return written.get(name, getattr(settings.rl.model_reward_parameters, name, None))
    value = getattr(settings.rl, name, getattr(settings.ppo, name, None))
    return list(value) if isinstance(value, tuple) else value


def _holds(of: Searched, value: Any) -> bool:
    """Whether a value is one of those that are searched."""
    distribution = of.distribution()
    try:
        stored = value if not hasattr(of, "stored") else of.stored(value)
        return bool(distribution._contains(distribution.to_internal_repr(stored)))
    except (ValueError, TypeError):
        return False


# ---------------------------------------------------------------------- checks before any work


@contextmanager
def _traded(config: dict[str, Any]) -> Iterator[Traded]:
    """What a config trades, by freqtrade's own classes."""
    exchange = ExchangeResolver.load_exchange(config, load_leverage_tiers=True)
    try:
        backtesting = Backtesting(deepcopy(config), exchange, progress_callback=lambda _: None)
        if len(backtesting.strategylist) != 1:
            raise OperationalException(
                f"{len(backtesting.strategylist)} strategies are asked for; accepted: one; remedy: name it with "
                "--strategy"
            )
        [strategy] = backtesting.strategylist
        model = checked_model(backtesting, strategy)
        own_reward = users_reward(type(model), config) is not None
        pairs = tuple(backtesting.pairlists.whitelist)
        beside = [pair for pair, *_ in strategy.gather_informative_pairs()]
        beside += config["freqai"].get("feature_parameters", {}).get("include_corr_pairlist", [])
        candle_pairs = tuple(dict.fromkeys([*pairs, *beside]))
        yield Traded(strategy, own_reward, pairs, candle_pairs, int(backtesting.required_startup))
    finally:
        Backtesting.cleanup()  # type: ignore[no-untyped-call]
        exchange.close()  # type: ignore[no-untyped-call]


def _check_space(space: SearchSpace, config: dict[str, Any], traded: Traded) -> None:
    """
    :raises StudyError: with every key that nothing reads, and every value that is not accepted
    """
    parameters = parameters_of(traded.strategy)
    complaints = list(space.complaints(config, parameters, own_reward=traded.own_reward))
    if not complaints:
        for key, of in space.searched.items():
            for value in of.extremes:
                complaint = _value_complaint(space, config, parameters, key, value)
                if complaint is not None:
                    complaints.append(f"{SECTION}.{key} holds {value!r}, which cannot be: {complaint}")
                    break
    if complaints:
        raise StudyError("\n".join(complaints))


def _value_complaint(
    space: SearchSpace, config: dict[str, Any], parameters: Mapping[str, Any], key: str, value: Any
) -> str | None:
    if key.startswith("strategy."):
        return parameter_complaint(key.removeprefix("strategy."), value, parameters)
    try:
        settings_of_strategy(space.apply(config, {key: value}))
    except OperationalException as error:
        return " ".join(str(error).removeprefix("The config cannot be used:").split())
    return None


def with_settings(spec: StudySpec, config: dict[str, Any], space: SearchSpace) -> None:
    """
    :raises StudyError: if the study's own overlay cannot be
    """
    from freqtrade.misc import deep_merge_dicts

    if "n_envs" in space.searched and "n_envs" in spec.overlay["freqai"]["rl_config"]:
        raise StudyError(f"--n-envs is given, and {SECTION}.n_envs is searched; accepted: one; remedy: leave one away")
    merged = deep_merge_dicts(spec.overlay, deepcopy(dict(config)))
    try:
        settings = settings_of_strategy(merged)
    except OperationalException as error:
        raise StudyError(" ".join(str(error).split())) from None
    if settings.rl.n_envs == "auto" and "n_envs" not in space.searched:
        raise StudyError(
            "freqai.rl_config.n_envs is 'auto', which each machine decides by timing, so that trials could not be "
            "compared; accepted: a number; remedy: give one with --n-envs"
        )


def _spec(
    folder: StudyFolder,
    arguments: Sequence[str],
    config: dict[str, Any],
    asked: Asked,
    space: SearchSpace,
    settings: Settings,
    traded: Traded,
) -> StudySpec:
    validation, locked, lock_ms = _ranges(config, asked, space, settings, traded)
    # Drawn anew for each study: what everybody tunes on the same seeds fits those seeds.
    entropy = _entropy(asked.seed)
    drawn = np.random.default_rng(entropy).permutation(_SEEDS)[: asked.seeds + asked.test_seeds] * _SEED_STEP
    return StudySpec(
        name=folder.path.name,
        created=f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}",
        arguments=tuple(arguments),
        config=compared_config(config),
        space=space.as_json(),
        first=_first_parameters(space, settings, config, traded.strategy),
        overlay={"freqai": {"rl_config": _own_settings(asked, settings)}},
        strategy=traded.strategy.get_strategy_name(),
        pairs=traded.pairs,
        timeframe=str(traded.strategy.timeframe),
        validation=validation,
        locked=locked,
        lock_ms=lock_ms,
        datadir=str(Path(config["datadir"]).resolve()),
        tuning_seeds=tuple(drawn[: asked.seeds].tolist()),
        test_seeds=tuple(drawn[asked.seeds :].tolist()),
        sampler_seed=entropy,
        candles="",
        sources=hashes_of(files_of(traded.strategy, config, space.as_json())),
        versions=artefacts.library_versions(),
        code=study_code(),
    )


def _own_settings(asked: Asked, settings: Settings) -> dict[str, Any]:
    """What the study sets in every trial: so that its figures do not depend on who works at it."""
    own: dict[str, Any] = {} if asked.n_envs is None else {"n_envs": asked.n_envs}
    if settings.rl.threads_per_job is None:
        side_by_side = settings.rl.executor in ("processes", "ray")
        own["threads_per_job"] = 1 if side_by_side else max(1, usable_processors() // asked.workers)
    return own


def _ranges(
    config: dict[str, Any], asked: Asked, space: SearchSpace, settings: Settings, traded: Traded
) -> tuple[str, str, int]:
    """The timeranges of validation and of what is locked, and where that begins, milliseconds since 1970."""
    timeframe = str(traded.strategy.timeframe)
    first_ms, end_ms = span_ms(config, Path(config["datadir"]), traded.pairs, timeframe)
    given = TimeRange.parse_timerange(config.get("timerange"))
    if given.stopts:
        end_ms = min(end_ms, given.stopts * 1000)
    end_ms = end_ms // DAY_MS * DAY_MS
    lock_ms = end_ms - asked.holdout_days * DAY_MS
    searched = space.searched.get("freqai.train_period_days")
    most_days = max(searched.extremes) if searched else settings.train_period_days
    startup_ms = traded.startup_candles * timeframe_to_msecs(timeframe)
    startup_ms += (most_days - settings.train_period_days) * DAY_MS
    earliest_ms = -(-(first_ms + startup_ms) // DAY_MS) * DAY_MS
    start_ms = given.startts * 1000 if given.startts else earliest_ms
    if start_ms < earliest_ms:
        raise StudyError(
            f"--timerange begins at {_day(start_ms)}, and the candles in {config['datadir']} at {_day(first_ms)}: a "
            f"training of {most_days} days and the indicators need those from {_day(start_ms - startup_ms)} on; "
            f"accepted: a timerange from {_day(earliest_ms)} on; remedy: begin later, or download more candles"
        )
    periods = (lock_ms - start_ms) / DAY_MS / settings.backtest_period_days
    if periods < 1:
        raise StudyError(
            f"--holdout-days is {asked.holdout_days}, which leaves {max(0, (lock_ms - start_ms) // DAY_MS)} days for "
            f"the trials between {_day(start_ms)} and {_day(lock_ms)}; accepted: at least one period of "
            f"freqai.backtest_period_days {settings.backtest_period_days}; remedy: hold out fewer days, or give more "
            "candles"
        )
    return f"{_compact(start_ms)}-{_compact(lock_ms)}", f"{_compact(lock_ms)}-{_compact(end_ms)}", lock_ms


def _day(ms: float) -> str:
    return f"{datetime.fromtimestamp(ms / 1000, UTC):%Y-%m-%d}"


def _compact(ms: int) -> str:
    return _day(ms).replace("-", "")
