"""The commands that the docs print, and which test runs each: ``test_docs.py`` and what tries them share it."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = [*sorted(DOCS.rglob("*.md")), ROOT / "README.md", ROOT / "CONTRIBUTING.md"]

BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
COMMAND_WORDS = {
    "mtfscalper",
    "freqtrade",
    "make",
    "python",
    "python3",
    "pip",
    "tensorboard",
    "docker",
    "ray",
    "export",
}

# What ``tests/acceptance/test_docs_commands.py`` gives as it is printed, in this order, with words of its own for a
# result, a folder of candles and a config.
_MODEL = "--strategy MtfScalper_RL_Hybrid --freqaimodel MtfScalperRLModel"
_MONTH = "--timerange 20241001-20241101"
_FAST = f"--config configs/config_rl_hybrid.json --config configs/config_rl_fast.json {_MODEL} {_MONTH}"
_PATHS = "--freqaimodel MtfScalperRLModel --freqaimodel-path user_data/freqaimodels"
AS_PRINTED = (
    "mtfscalper init",
    "mtfscalper init '~/freqtrade'",
    "mtfscalper completion zsh",
    "mtfscalper synthetic --datadir market --seed 7",
    "mtfscalper replay-exchange",
    "mtfscalper replay-exchange --from 2024-10-20 --write-config exchange.json",
    "mtfscalper replay-exchange --datadir user_data/data/binance --as-dated --write-config exchange.json",
    "mtfscalper replay-exchange --datadir user_data/data/binance --port 0 --write-config mine.json",
    f"mtfscalper train --dry-run --config configs/config_rl_hybrid.json {_MODEL} {_MONTH}",
    f"mtfscalper train --dry-run {_FAST}",
    f"freqtrade backtesting {_FAST}",
    "mtfscalper report",
    "mtfscalper report RESULT.zip --datadir DIR",
    "mtfscalper report RESULT.zip --html report.html",
    "mtfscalper report RESULT.zip --json report.json",
    "mtfscalper report RESULT.zip --html report.html --json report.json",
    "mtfscalper audit",
    "mtfscalper audit RESULT.zip --datadir DIR",
    "mtfscalper train --dry-run --config CONFIG",
    "mtfscalper train --config CONFIG",
    "mtfscalper train --workers 4 --config CONFIG",
    f"freqtrade backtesting --config user_data/config.json --strategy MtfScalper_RL_Hybrid --strategy-path strategies "
    f"{_PATHS} {_MONTH}",
    f"freqtrade backtesting --strategy YourStrategy --config your_config.json {_PATHS} {_MONTH}",
    "freqtrade backtesting --strategy MtfScalper_RL_Hybrid --config configs/config_rl_hybrid.json "
    f"--config configs/offline.json --freqaimodel MtfScalperRLModel {_MONTH}",
    "mtfscalper audit user_data/offline/backtest_results --datadir user_data/data/binance",
    "mtfscalper seal user_data/models/mtf_scalper_rl",
    "mtfscalper status",
    "mtfscalper status --prometheus",
    "mtfscalper status --config configs/config_rl_hybrid.json --prometheus",
)
# Others take minutes, or a bot, or a study: by subcommand and options, a test that gives the same ones.
_DRY_RUN = "tests/offline/test_dry_run_command.py::test_what_the_docs_ask_of_a_dry_run_is_what_is_run"
_STUDIES, _DEPLOYMENT = "tests/acceptance/test_studies.py", "tests/acceptance/test_study_deployment.py"
_DEPLOYED = f"{_DEPLOYMENT}::test_from_a_study_to_a_backtest_of_what_it_deployed"
_RAY = (
    "tests/acceptance/test_ray_commands.py::"
    "test_a_backtest_on_a_cluster_that_loses_a_node_makes_the_trades_of_one_process"
)
_RELOADED = (
    "tests/search/test_deploy_command.py::test_what_is_deployed_without_a_bot_that_follows_has_a_status_of_its_own"
)
_WATCHING = "tests/monitoring/test_study_watch.py"
RUN_BY = {
    "mtfscalper demo": ".ci/package",
    "mtfscalper demo --datadir --timerange": (
        "tests/offline/test_cli.py::test_demo_runs_on_own_candles_from_a_folder_inside_the_checkout"
    ),
    "mtfscalper dry-run": _DRY_RUN,
    "mtfscalper dry-run --datadir --from --hours": _DRY_RUN,
    "mtfscalper dry-run --faults": _DRY_RUN,
    "mtfscalper dry-run --faults --simulated-live": _DRY_RUN,
    "mtfscalper dry-run --hours": _DRY_RUN,
    "mtfscalper dry-run --simulated-live": _DRY_RUN,
    "mtfscalper dry-run --speed --ui": _DRY_RUN,
    "mtfscalper audit --config": "tests/reporting/test_audit_causes.py::test_a_bots_database_is_audited",
    "mtfscalper dashboard --study": "tests/monitoring/test_dashboard.py::test_with_a_token_nobody_looks_without_it",
    "mtfscalper dashboard --host --study": "tests/monitoring/test_dashboard.py::test_another_address_needs_a_token",
    "mtfscalper study run --config --freqaimodel --strategy --study --trials --workers": (
        f"{_STUDIES}::test_ten_killed_workers_and_a_killed_driver_lose_nothing"
    ),
    "mtfscalper study run --config --freqaimodel --strategy --study --timerange --trials --workers": (
        f"{_STUDIES}::test_ten_killed_workers_and_a_killed_driver_lose_nothing"
    ),
    "mtfscalper study run --study --trials": f"{_STUDIES}::test_a_study_that_is_stopped_goes_on_from_there",
    "mtfscalper study watch --study": (
        f"{_WATCHING}::test_without_a_terminal_there_is_a_line_for_each_trial_that_finishes_until_all_have"
    ),
    "mtfscalper study watch --once --study": f"{_WATCHING}::test_once_prints_the_screen_and_changes_nothing",
    "mtfscalper study judge --study": _DEPLOYED,
    "mtfscalper study deploy --study": _DEPLOYED,
    "mtfscalper study deploy --reload --study --watch": (
        "tests/search/test_deploy_command.py::test_what_the_docs_ask_to_be_watched_is_watched"
    ),
    "mtfscalper study deploy --reload --study": _RELOADED,
    "mtfscalper study deploy --name --rollback": _RELOADED,
    "mtfscalper study judge --json --study --trial": (
        "tests/acceptance/test_study_planted.py::test_twenty_trials_find_a_setting_that_passes_the_gates_and_beats_random_ones"
    ),
    "freqtrade backtesting --cache --config --datadir --freqaimodel --strategy --timerange": (
        "tests/acceptance/test_audit_planted.py::test_no_false_alarm_on_five_hundred_plain_trades"
    ),
    "freqtrade backtesting --config --freqaimodel --strategy --timerange": (
        "tests/acceptance/test_commands.py::test_the_same_backtest_trains_nothing_again"
    ),
    "freqtrade backtesting --config --freqaimodel --strategy": _RAY,
    "freqtrade backtesting --config --userdir": _RAY,
    "freqtrade backtesting --config --datadir --timerange": _DEPLOYED,
    "freqtrade backtesting --cache --enable-protections --freqai-backtest-live-models": (
        "tests/acceptance/test_dry_run_is_backtest.py::test_the_backtest_makes_the_bots_trades_or_names_the_difference"
    ),
    "freqtrade hyperopt --config --disable-param-export --epochs --freqaimodel --hyperopt-loss --spaces --strategy "
    "--timerange": ("tests/acceptance/test_hyperopt.py::test_an_epoch_trades_by_its_own_parameters"),
    "freqtrade plot-dataframe --backtest-filename --config --freqaimodel --pairs --strategy --timerange": (
        "tests/acceptance/test_commands.py::test_plot_dataframe_draws_a_futures_chart_with_the_policys_columns"
    ),
    "freqtrade webserver --config": (
        "tests/acceptance/test_commands.py::test_the_webserver_draws_without_touching_and_backtests_as_a_backtest_does"
    ),
    "freqtrade trade --config": f"{_DEPLOYMENT}::test_an_open_trade_finds_its_policy_across_deployment_and_rollback",
    "freqtrade trade --config --freqaimodel --strategy": (
        "tests/acceptance/test_simulated_live.py::test_the_live_bot_makes_the_trades_of_a_dry_run"
    ),
    "freqtrade trade --config --dry-run --freqaimodel --strategy": (
        "tests/acceptance/test_dry_run.py::test_the_trades_are_the_backtests"
    ),
}
# What is run by no test, and why. The first two are parsed all the same.
NOT_RUN = {
    "freqtrade download-data": "needs an exchange; the candles of the tests are made or replayed",
    "freqtrade install-ui": "downloads",
    "make": "a target, which must exist; .ci/run and the workflows run demo, check, test, audit, docs and package",
    "pip": "downloads; what it names must exist",
    "python": "a file, which must exist, or a module",
    "docker": "needs its daemon; the workflow builds the image",
    "ray": "Ray's own, on several machines; tests/acceptance/test_ray.py starts it on one",
    "tensorboard": "TensorBoard's own",
    "bash": "a file, which must exist",
    "shell": "the shell's own",
}
SHELLS_OWN = {"cd", "export", "source", "eval", "mv", "srun", "head=$(scontrol"}
# In a line about a cluster the freqtrade command stands behind another one.
_AFTER = " -- "


class Command(NamedTuple):
    """A command in a page.

    :ivar page: relative to the project
    :ivar words: program and arguments
    """

    page: str
    words: tuple[str, ...]

    @property
    def kind(self) -> str:
        """Under which name the tables above know it."""
        program = Path(self.words[0]).name
        if program in ("mtfscalper", "freqtrade"):
            return f"{program} {self.words[1]}"
        if program in SHELLS_OWN:
            return "shell"
        return {"python3": "python"}.get(program, program)

    @property
    def line(self) -> str:
        """As it is typed."""
        return shlex.join(self.words)

    @property
    def form(self) -> str:
        """Subcommand and options, without what they are given."""
        kind = f"{self.kind} {self.words[2]}" if self.kind == "mtfscalper study" else self.kind
        return " ".join([kind, *sorted({word for word in self.words if word.startswith("--")})])

    def __str__(self) -> str:
        return f"{self.page}: {self.line}"


def commands_of(text: str, page: str) -> Iterator[Command]:
    """The commands in the blocks of a page that are marked as a shell's."""
    for language, block in BLOCK.findall(text):
        if language not in ("sh", "bash"):
            continue
        for line in block.replace("\\\n", " ").splitlines():
            for typed in re.split(r" ; | -- ", line):
                words = shlex.split(typed.removesuffix(";"), comments=True)
                while words and re.fullmatch(r"[A-Z_]+=\S*", words[0]):
                    del words[0]
                if ">" in words:
                    del words[words.index(">") :]
                if words and words[-1] == "&":
                    del words[-1]
                if words:
                    yield Command(page, tuple(words))


COMMANDS_IN_DOCS = [
    command
    for path in PAGES
    for command in commands_of(path.read_text(encoding="utf-8"), path.relative_to(ROOT).as_posix())
]
