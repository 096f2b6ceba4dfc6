"""``mtfscalper study run``: what it refuses before anything is trained, and what it says."""

from __future__ import annotations

import io
import json
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any

import optuna
import pytest
from freqtrade.configuration.load_config import load_from_files
from freqtrade.exceptions import OperationalException
from rich.console import Console
from studies import CONFIG, HOLDOUT_DAYS, StudyHome, spec_of, write_candles

from mtfscalper import artefacts
from mtfscalper.cli import main
from mtfscalper.freqai.backtester import backtest_config
from mtfscalper.search import deploy_command, leases, new_study, study_run
from mtfscalper.search.errors import ChangedError, StudyError
from mtfscalper.search.new_study import Asked, Traded, check_begun
from mtfscalper.search.same_study import SameStudy, compared_config, files_of, hashes_of, study_code
from mtfscalper.search.space import SearchSpace
from mtfscalper.search.study_folder import StudyFolder, StudySpec
from mtfscalper.search.trial_config import config_of_trial, study_config

ROOT = Path(__file__).parents[2]
OWN_REWARD = """
from freqtrade.freqai.RL.Base5ActionRLEnv import Base5ActionRLEnv
from mtfscalper.freqai.model import MtfScalperFreqaiModel


class Mine(MtfScalperFreqaiModel):
    class MyRLEnv(Base5ActionRLEnv):
        def calculate_reward(self, action):
            return 0.0
"""


class Strategy:
    """As much of a strategy as a study looks at."""

    __file__ = str(ROOT / "strategies" / "MtfScalper_RL_Hybrid.py")
    timeframe = "5m"


@pytest.fixture(scope="module")
def market(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_candles(tmp_path_factory.mktemp("market"))


@pytest.fixture
def home(tmp_path: Path, market: Path) -> StudyHome:
    return StudyHome(tmp_path, "http://127.0.0.1:1", market=market)


def config_of(home: StudyHome, *more: str) -> dict[str, Any]:
    return backtest_config([*home.arguments, *more])


def without(arguments: list[str], *options: str) -> list[str]:
    """Arguments but for some, each of which has one value."""
    named = [at for at, word in enumerate(arguments) if word in options]
    return [word for at, word in enumerate(arguments) if at not in {*named, *(one + 1 for one in named)}]


def with_model(home: StudyHome, source: str) -> Path:
    """Let a study train with a FreqAI model of the user's, of the name Mine.

    :return: its file
    """
    file = home.user / "freqaimodels" / "Mine.py"
    file.parent.mkdir(exist_ok=True)
    file.write_text(source)
    home.arguments = without(home.arguments, "--freqaimodel", "--freqaimodel-path")
    home.arguments += ["--freqaimodel", "Mine"]
    return file


def spec_now(config: dict[str, Any], **changes: Any) -> StudySpec:
    space = SearchSpace.from_config(config).as_json()
    sources = hashes_of(files_of(Strategy(), config, space))  # type: ignore[arg-type]
    values = {"config": compared_config(config), "space": space, "sources": sources}
    return spec_of(**{**values, "code": study_code(), **changes})


def check(spec: StudySpec, config: dict[str, Any]) -> None:
    SameStudy(spec, (), config, Strategy()).check_loaded()  # type: ignore[arg-type]


# ---------------------------------------------------------------------- the command


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--study", "../a"], "--study is '../a'; accepted: up to 64 letters"),
        (["--study", "unknown"], "unknown/study.json does not exist"),
    ],
)
def test_a_study_that_cannot_be_ends_with_status_2_and_one_sentence(
    words: list[str], told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["study", "run", *words]) == 2
    assert told in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_numbers_below_one_and_unknown_subcommands_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["run", "--study", "a", "--trials", "0"], ["walk"]):
        with pytest.raises(SystemExit) as ended:
            main(["study", *words])
        assert ended.value.code == 2
    told = capsys.readouterr().err
    assert "--trials: is '0'; accepted: a whole number of at least 1" in told
    assert "invalid choice: 'walk'" in told


def test_sqlite_is_refused_before_anything_is_written(
    home: StudyHome, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(home.home)
    assert main(["study", "run", "--study", "small", "--storage", "sqlite:///x.db", *home.arguments]) == 2
    assert "SQLite loses records" in capsys.readouterr().err
    assert not (home.user / "studies").exists()


def test_the_storage_that_a_study_began_with_has_to_be_named(tmp_path: Path) -> None:
    folder = StudyFolder(tmp_path)
    study_run._note_storage(folder, "postgresql://me:secret@host/studies")
    assert "secret" not in (tmp_path / "storage.json").read_text()
    study_run.check_storage(folder, "postgresql://me:other@host/studies")
    with pytest.raises(StudyError, match=r"are kept in postgresql://me:\*\*\*@host/studies"):
        study_run.check_storage(folder, None)


# ---------------------------------------------------------------------- its config


def test_the_file_that_freqtrade_takes_if_none_is_named_is_a_trials_too(home: StudyHome) -> None:
    arguments = without(home.arguments, "--config")
    own = load_from_files([str(CONFIG), str(home.overlay)])
    (home.user / "config.json").write_text(json.dumps({**own, "stake_amount": 77}))
    overlay = home.home / "trial.json"
    overlay.write_text(json.dumps({"freqai": {"rl_config": {"gamma": 0.5}}}))
    begun, trial = study_config(arguments), config_of_trial(arguments, overlay)
    assert begun["stake_amount"] == trial["stake_amount"] == 77
    assert (begun["freqai"]["rl_config"].get("gamma"), trial["freqai"]["rl_config"]["gamma"]) == (0.99, 0.5)


def test_without_a_timerange_a_study_has_all_candles(home: StudyHome, monkeypatch: pytest.MonkeyPatch) -> None:
    home.arguments = without(home.arguments, "--timerange")
    spec = begin(home, monkeypatch, study_config(home.arguments))
    # 976 candles of five minutes after the first of September, and up to the last whole day.
    assert (spec.validation, spec.locked) == ("20240905-20240908", "20240908-20240910")


# ---------------------------------------------------------------------- the same study


def test_a_study_goes_on_with_the_config_that_it_began_with(home: StudyHome) -> None:
    config = config_of(home)
    check(spec_now(config), config)
    # What changes no trade may change: an address, a password, the files' names.
    other = json.loads(home.overlay.read_text())
    other |= {"telegram": {"enabled": False, "token": "secret", "chat_id": "1"}, "bot_name": "other"}
    other["exchange"]["ccxt_config"] = {"urls": {}}
    other["freqai"]["identifier"] = "other"
    (home.home / "other.json").write_text(json.dumps(other))
    arguments = [word.replace("overlay.json", "other.json") for word in home.arguments]
    changed = backtest_config(arguments)
    assert "secret" not in json.dumps(compared_config(changed))
    check(spec_now(config), changed)


def test_what_has_changed_is_told(home: StudyHome, monkeypatch: pytest.MonkeyPatch) -> None:
    config = config_of(home)
    spec = spec_now(config)
    with pytest.raises(StudyError, match=r"fee was None and is 0.001"):
        check(spec, config_of(home, "--fee", "0.001"))
    changed = deepcopy(config)
    changed["original_config"]["freqai"]["rl_config"]["gamma"] = 0.5
    with pytest.raises(StudyError, match=r"freqai.rl_config.gamma was 0.99 and is 0.5"):
        check(spec, changed)
    changed = deepcopy(config)
    changed["freqai"]["rl_config"]["search_space"]["gamma"] = {"type": "float", "low": 0.9, "high": 0.99}
    with pytest.raises(StudyError, match=r"search_space has changed since the study small began"):
        check(spec, changed)
    with pytest.raises(StudyError, match=r"MtfScalper_RL_Hybrid.py, .*changed since"):
        check(spec_now(config, sources={"MtfScalper_RL_Hybrid.py": "other"}), config)
    with pytest.raises(StudyError, match=r"this package's code is another"):
        check(spec_now(config, code="other"), config)
    for hashed in ("code_hash", "measuring_code_hash"):
        with monkeypatch.context() as other:
            other.setattr(artefacts, hashed, lambda: "other")
            with pytest.raises(StudyError, match=r"this package's code is another"):
                check(spec, config)


CALM = """
from helper import SCALE


def calm(xp, settings, transition):
    return 0.0 * SCALE
"""


def test_whatever_of_the_users_code_decides_what_a_trial_is_worth_may_not_change(home: StudyHome) -> None:
    model = with_model(home, OWN_REWARD.replace("return 0.0", "return 1.0"))
    own = {"calm.py": CALM, "helper.py": "SCALE = 1.0\n", "net.py": "def net(lookback, n_features):\n    ...\n"}
    for name, source in own.items():
        (home.user / name).write_text(source)
    written = json.loads(home.overlay.read_text())
    written["freqai"]["rl_config"] |= {"model_reward_parameters": {"terms": {"calm:calm": 0.1}}}
    written["freqai"]["rl_config"]["search_space"]["network"] = {"type": "categorical", "choices": [None, "net:net"]}
    home.overlay.write_text(json.dumps(written))
    config = config_of(home)
    spec = spec_now(config)
    same = SameStudy(spec, home.arguments, config, Strategy())  # type: ignore[arg-type]
    same.check()
    for file in (model, *(home.user / name for name in own)):
        before = file.read_text()
        file.write_text(before + "\n# Another.\n")
        # By whoever goes on with the study, and by whoever is in the middle of it.
        for look in (partial(check, spec, config), same.check):
            with pytest.raises(ChangedError, match=rf"{file.name}.* changed since the study small began"):
                look()
        file.write_text(before)
    same.check()
    written["stoploss"] = -0.02
    home.overlay.write_text(json.dumps(written))
    with pytest.raises(ChangedError, match=r"stoploss was None and is -0.02"):
        same.check()
    home.overlay.write_text("{")
    with pytest.raises(ChangedError, match="cannot be loaded any more"):
        same.check()


def test_what_has_changed_is_told_where_a_trial_is_deployed_too(home: StudyHome) -> None:
    config = config_of(home)
    strategy = study_run.StrategyResolver.load_strategy(deepcopy(config))
    sources = hashes_of(files_of(strategy, config, SearchSpace.from_config(config).as_json()))
    # Another version of this package, which only its policies could show.
    spec = spec_now(config, sources=sources, arguments=tuple(home.arguments), code="other")
    assert deploy_command._why_changed(spec) is None
    written = json.loads(home.overlay.read_text())
    home.overlay.write_text(json.dumps({**written, "stoploss": -0.02}))
    assert "stoploss was None and is -0.02" in str(deploy_command._why_changed(spec))
    # What cannot be seen is no reason to deploy it.
    home.overlay.write_text("{")
    assert "cannot be seen from here" in str(deploy_command._why_changed(spec))
    home.overlay.unlink()
    assert "cannot be seen from here" in str(deploy_command._why_changed(spec))


def test_options_that_a_study_could_no_longer_obey_are_refused() -> None:
    spec = spec_of(overlay={"freqai": {"rl_config": {"n_envs": 8}}}, sampler_seed=new_study._entropy(4))
    check_begun(spec, {})
    check_begun(spec, {"holdout_days": 2, "seeds": 2, "test_seeds": 1, "n_envs": 8, "seed": 4})
    for name, value, began in (("holdout_days", 3, "2"), ("n_envs", 9, "8"), ("seeds", 3, "2"), ("seed", 5, "another")):
        with pytest.raises(StudyError, match=f"--{name.replace('_', '-')} is {value}, .* began with {began}"):
            check_begun(spec, {name: value})


# ---------------------------------------------------------------------- its beginning


def begin(
    home: StudyHome,
    monkeypatch: pytest.MonkeyPatch,
    config: dict[str, Any] | None = None,
    own_reward: bool = False,
    **asked: Any,
) -> StudySpec:
    """Begin a study without asking an exchange for its markets."""
    config = config or config_of(home)
    trade_offline(config, monkeypatch, own_reward)
    folder = StudyFolder(home.user / "studies" / "small")
    return new_study.begin_study(folder, home.arguments, config, Asked(**{"holdout_days": HOLDOUT_DAYS, **asked}))


def trade_offline(config: dict[str, Any], monkeypatch: pytest.MonkeyPatch, own_reward: bool = False) -> None:
    """Let a study know what a config trades without asking an exchange."""
    strategy = study_run.StrategyResolver.load_strategy(deepcopy(config))
    strategy.ft_bot_start()
    traded = Traded(strategy, own_reward, ("BTC/USDT:USDT",), ("BTC/USDT:USDT",), 976)
    # The context manager's place is taken by one that has nothing to close.
    monkeypatch.setattr(new_study, "_traded", lambda _: _Given(traded))


class _Given:
    def __init__(self, traded: Traded) -> None:
        self._traded = traded

    def __enter__(self) -> Traded:
        return self._traded

    def __exit__(self, *_: Any) -> None: ...


def test_a_study_begins_with_candles_that_end_before_what_is_locked(
    home: StudyHome, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = begin(home, monkeypatch, seeds=2, test_seeds=3, n_envs=4, workers=1000)
    assert (spec.validation, spec.locked) == ("20240905-20240907", "20240907-20240909")
    assert spec.lock_ms == 1725667200000
    assert spec.overlay == {"freqai": {"rl_config": {"n_envs": 4, "threads_per_job": 1}}}
    seeds = (*spec.tuning_seeds, *spec.test_seeds)
    assert (len(spec.tuning_seeds), len(spec.test_seeds), len(set(seeds))) == (2, 3, 5)
    # Environment i of a training starts with seed + i: none may come near another's.
    assert min(abs(a - b) for a in seeds for b in seeds if a != b) >= 2**20
    # The config's own values, as far as they lie in the space.
    assert spec.first == {
        "learning_rate": 0.0003,
        "net_arch": "[16]",
        "reward.drawdown_weight": 0.0,
        "freqai.conv_width": 1,
        "strategy.exit_probability_min": 0.5,
    }
    folder = StudyFolder(home.user / "studies" / "small")
    assert (folder.candles / "futures" / "BTC_USDT_USDT-5m-futures.feather").is_file()


def test_parameters_of_a_reward_of_ones_own_can_be_searched(home: StudyHome, monkeypatch: pytest.MonkeyPatch) -> None:
    with_model(home, OWN_REWARD)
    config = json.loads(home.overlay.read_text())
    config["freqai"]["rl_config"] |= {
        "model_reward_parameters": {"hold_penalty_factor": 0.3, "rr": 5},
        "search_space": {
            f"reward.{name}": {"type": "float", "low": 0.0, "high": 9.0}
            for name in ("hold_penalty_factor", "rr", "new")
        },
    }
    home.overlay.write_text(json.dumps(config))
    spec = begin(home, monkeypatch, own_reward=True)
    # The config's own values first, where it has any.
    assert spec.first == {"reward.hold_penalty_factor": 0.3, "reward.rr": 5.0}


def test_the_same_seed_gives_the_same_seeds(home: StudyHome, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second, other = (begin(home, monkeypatch, seed=seed) for seed in (4, 4, 5))
    assert first.tuning_seeds == second.tuning_seeds != other.tuning_seeds


@pytest.mark.parametrize(
    ("space", "told"),
    [
        ({"learning_rat": {"type": "float", "low": 0.1, "high": 0.2}}, "did you mean 'learning_rate'?"),
        ({"gamma": {"type": "float", "low": 0.9, "high": 1.5}}, "search_space.gamma holds 1.5, which cannot be"),
        ({"batch_size": {"type": "int", "low": 32, "high": 999}}, "batch_size is 999; accepted: at most"),
        ({"strategy.rsi_low": {"type": "int", "low": 30, "high": 90}}, "accepted: integer from 30 to 55"),
        ({"freqai.train_period_days": {"type": "int", "low": 2, "high": 9}}, "a training of 9 days"),
    ],
)
def test_a_space_that_cannot_be_is_refused_before_candles_are_copied(
    home: StudyHome, monkeypatch: pytest.MonkeyPatch, space: dict[str, Any], told: str
) -> None:
    config = json.loads(home.overlay.read_text())
    config["freqai"]["rl_config"]["search_space"] = space
    home.overlay.write_text(json.dumps(config))
    with pytest.raises((StudyError, OperationalException)) as refused:
        begin(home, monkeypatch)
    assert told in str(refused.value)
    assert not (home.user / "studies").exists()


@pytest.mark.parametrize("seed", [None, 4])
def test_two_machines_that_begin_one_study_at_once_share_it(
    tmp_path: Path, market: Path, monkeypatch: pytest.MonkeyPatch, seed: int | None
) -> None:
    homes = [StudyHome(tmp_path / name, "http://127.0.0.1:1", market=market) for name in ("one", "two")]
    # What takes no notice of the address, and is good enough where nobody writes at once.
    storage = optuna.storages.RDBStorage(f"sqlite:///{tmp_path / 'shared.db'}")
    monkeypatch.setattr(study_run, "open_storage", lambda *_: storage)
    trade_offline(config_of(homes[0]), monkeypatch)
    given, told = {} if seed is None else {"seed": seed}, io.StringIO()

    def opened(home: StudyHome) -> study_run.Opened:
        asked = Asked(holdout_days=HOLDOUT_DAYS, seeds=1, **given)
        request = study_run.Request("small", home.arguments, 4, 1, asked, "postgresql://me@host/db", given=given)
        return study_run.open_or_begin(request, Console(file=told))

    real, first = study_run.begin_study, list[study_run.Opened]()

    def begin_last(*of: Any) -> StudySpec:
        """While the second one copies its candles, the first one begins."""
        spec = real(*of)
        if not first:
            first.append(Any)  # type: ignore[arg-type]
            first[:] = [opened(homes[0])]
        return spec

    monkeypatch.setattr(study_run, "begin_study", begin_last)
    second = opened(homes[1])
    for one in (*first, second, opened(homes[0]), opened(homes[1])):
        assert one.spec.shared_sha256 == one.folder.spec.shared_sha256 == second.spec.shared_sha256
    assert [trial.user_attrs for trial in second.study.trials] == [{leases.FIRST: True}]
    # Once a machine: with one seed no trial is ever given up.
    assert told.getvalue().count("--seeds is 1") == 2


def test_a_study_whose_beginning_was_cut_off_begins_as_it_did(home: StudyHome, monkeypatch: pytest.MonkeyPatch) -> None:
    trade_offline(config_of(home), monkeypatch)
    request, told = study_run.Request("small", home.arguments, 4, 1, Asked(holdout_days=HOLDOUT_DAYS)), io.StringIO()
    begun = study_run.open_or_begin(request, Console(file=told))
    assert "--seeds is 1" not in told.getvalue()
    begun.folder.spec_file.unlink()
    again = study_run.open_or_begin(request, Console(file=io.StringIO()))
    assert again.spec == begun.spec == again.folder.spec


def test_a_holdout_that_leaves_no_period_is_refused(home: StudyHome, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(StudyError, match=r"--holdout-days is 4, which leaves 0 days for the trials"):
        begin(home, monkeypatch, holdout_days=4)


def test_a_number_of_environments_that_each_machine_decides_is_refused(
    home: StudyHome, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = json.loads(home.overlay.read_text())
    config["freqai"]["rl_config"]["n_envs"] = "auto"
    home.overlay.write_text(json.dumps(config))
    with pytest.raises(StudyError, match=r"n_envs is 'auto'.*--n-envs"):
        begin(home, monkeypatch)


# ---------------------------------------------------------------------- what is told


def test_a_line_tells_what_became_of_each_trial() -> None:
    study = optuna.create_study(direction="maximize")
    space = {"x": optuna.distributions.FloatDistribution(0, 1)}
    attrs: list[dict[str, Any]] = [
        {"interval": [0.001, 0.002, 0.003], "trades": 120, "seconds": 60.0},
        {"interval": [None, 0.001, None], "trades": 40, "seconds": 20.0, "seeds_done": [1]},
        {"set_aside": "lost"},
        {"error": "OSError: no such exchange"},
    ]
    for values, state in zip(attrs, ("COMPLETE", "PRUNED", "FAIL", "FAIL"), strict=True):
        trial = study.ask(space)
        for name, value in values.items():
            trial.set_user_attr(name, value)
        study.tell(trial, 0.002 if state == "COMPLETE" else None, state=optuna.trial.TrialState[state])
    lines = [study_run._line(trial, study.best_trial) for trial in study.trials]
    assert lines[0].startswith("trial 0: +0.200 % (+0.100 % to +0.300 %) a day over classic exits, 120 trades, 60 s")
    assert lines[0].endswith("(best)")
    assert lines[1].endswith("given up after 1 seeds")
    assert lines[2] == "trial 2: lost; enqueued again"
    assert lines[3] == "trial 3: failed: OSError: no such exchange"
