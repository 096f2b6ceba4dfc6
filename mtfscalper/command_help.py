"""What ``--help`` says at its end: examples of each command, and what its exit status means."""

from collections.abc import Mapping
from types import MappingProxyType

# What is typed, and what it does; every line is parsed by the tests.
EXAMPLES: Mapping[str, tuple[tuple[str, str], ...]] = MappingProxyType(
    {
        "init": (
            ("mtfscalper init", "into this folder, beside a user_data of yours"),
            ("mtfscalper init ~/freqtrade", "into another one"),
        ),
        "demo": (
            ("mtfscalper demo", "on the synthetic market: minutes"),
            (
                "mtfscalper demo --datadir user_data/data/binance --timerange 20250401-20250415",
                "on candles of your own",
            ),
        ),
        "dry-run": (
            ("mtfscalper dry-run --hours 6", "six hours of a bot, as fast as this machine"),
            ("mtfscalper dry-run --speed 40 --ui", "forty times true time, with FreqUI on 127.0.0.1:8080"),
            ("mtfscalper dry-run --simulated-live --faults 0.02", "orders of simulated money, 2 % of requests fail"),
        ),
        "replay-exchange": (
            ("mtfscalper replay-exchange", "the synthetic market, at the address in configs/offline.json"),
            (
                "mtfscalper replay-exchange --datadir user_data/data/binance --port 0 --write-config mine.json",
                "candles of your own at a free port",
            ),
        ),
        "synthetic": (("mtfscalper synthetic --datadir market --seed 7", "another market, in a folder of its own"),),
        "report": (
            ("mtfscalper report", "of the newest result in user_data/backtest_results"),
            ("mtfscalper report RESULT.zip --html report.html --json report.json", "of this one, kept elsewhere"),
        ),
        "audit": (
            ("mtfscalper audit", "of the newest result in user_data/backtest_results"),
            ("mtfscalper audit tradesv3.sqlite --config configs/config_rl_hybrid.json", "of a bot"),
        ),
        "train": (
            (
                "mtfscalper train --dry-run --config configs/config_rl_hybrid.json --strategy MtfScalper_RL_Hybrid "
                "--freqaimodel MtfScalperRLModel --timerange 20241001-20241101",
                "what this backtest would train, and why",
            ),
        ),
        "study": (
            (
                "mtfscalper study run --study first --trials 20 --workers 2 --config configs/config_rl_hybrid.json "
                "--config configs/search_space.json --strategy MtfScalper_RL_Hybrid --freqaimodel MtfScalperRLModel "
                "--timerange 20241001-20250101",
                "search; the last 42 days judge the winner",
            ),
            ("mtfscalper study run --study first --trials 40", "go on, until 40 trials have finished"),
            ("mtfscalper study watch --study first", "from another terminal: how far it is"),
            ("mtfscalper study watch --study first --once", "the same, printed once"),
            ("mtfscalper study judge --study first", "hold the best trial against its gates"),
            ("mtfscalper study judge --study first --trial 7 --json seven.json", "another one: another look"),
            ("mtfscalper study deploy --study first", "write user_data/deployed/first.json, if it has passed"),
            (
                "mtfscalper study deploy --study first --reload http://127.0.0.1:8080",
                "and let the bot there follow it",
            ),
            ("mtfscalper study deploy --rollback --name first", "put back what was there before"),
        ),
        "dashboard": (("mtfscalper dashboard --study first", "at http://127.0.0.1:8090"),),
        "status": (
            ("mtfscalper status", "of every bot that has run in user_data"),
            ("mtfscalper status --config configs/config_rl_hybrid.json --prometheus", "of one, for Prometheus"),
        ),
        "seal": (("mtfscalper seal user_data/models/mtf_scalper_rl", "what you have copied from your other machine"),),
        "completion": (
            ('eval "$(mtfscalper completion bash)"', "for this shell; in ~/.bashrc for every one"),
            ("mtfscalper completion zsh", "the script, to be kept as _mtfscalper in a folder of $fpath"),
        ),
    }
)

# What every command means by it; those that mean more have a line of their own below.
DONE, FAILED, REFUSED, INTERRUPTED = "0", "1", "2", "130"
EXIT_STATUS: Mapping[str, str] = MappingProxyType(
    {
        DONE: "done",
        FAILED: "failed: Python's traceback says how",
        REFUSED: "refused: a line says what, where, what is accepted and what to do",
        INTERRUPTED: "interrupted by Ctrl-C or SIGTERM",
    }
)
OWN_STATUS: Mapping[str, Mapping[str, str]] = MappingProxyType(
    {
        "demo": {FAILED: "freqtrade ended without a result", "else": "freqtrade's own"},
        "dry-run": {FAILED: "the bot ended before its time"},
        "audit": {FAILED: "some trades are not what training assumed"},
        "train": {FAILED: "some trainings failed"},
        "study": {
            FAILED: "judge: a gate is not passed",
            "3": "run: it stopped, for trials or workers failed; deploy: it is deployed, and the bot does not follow",
        },
        "status": {DONE: "well", FAILED: "warning", REFUSED: "critical", "3": "unknown, or no bot has run there"},
    }
)


def statuses_of(command: str) -> dict[str, str]:
    """What each exit status of a command means."""
    meanings = {**EXIT_STATUS, **OWN_STATUS.get(command, {})}
    return {status: meanings[status] for status in sorted(meanings, key=lambda text: (len(text), text))}


def examples(command: str, subcommand: str | None = None) -> str:
    """The examples of a command, or of one of its subcommands, as help shows them."""
    lines = ["examples:"]
    for typed, meaning in EXAMPLES.get(command, ()):
        if subcommand is None or typed.startswith(f"mtfscalper {command} {subcommand} "):
            lines += [f"  {typed}", f"      {meaning}"]
    return "\n".join(lines)


def epilog(command: str) -> str:
    """The end of a command's help."""
    lines = [examples(command), "", "exit status:"]
    lines += [f"  {status:<4} {meaning}" for status, meaning in statuses_of(command).items()]
    return "\n".join(lines)
