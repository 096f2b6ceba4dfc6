"""freqtrade's live mode with simulated money: what its configuration says, and what it must not say.

A live bot sends orders wherever its configuration sends it. So nothing starts before every address in it, environment
variables included, is the loopback exchange's, and every key a placeholder.
"""

from collections.abc import Iterator, Mapping, Sequence
from ipaddress import ip_address
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import ccxt
from freqtrade.configuration.environment_vars import environment_vars_to_dict
from freqtrade.configuration.load_config import load_from_files
from freqtrade.misc import deep_merge_dicts

from mtfscalper.offline import SIMULATED_KEY, SIMULATED_SECRET, ReplayError

# In the section `exchange`.
PLACEHOLDERS = {"key": SIMULATED_KEY, "secret": SIMULATED_SECRET}
# How freqtrade and ccxt call what opens an account.
_CREDENTIALS = {
    *("key", "api_key", "apikey", "secret", "password", "uid", "token", "account_id", "accountid"),
    *("wallet_address", "walletaddress", "private_key", "privatekey", "twofa", "login"),
}
# As freqtrade gives its clients their settings: the later over the first.
_CLIENTS = (("ccxt_config", "ccxt_sync_config"), ("ccxt_config", "ccxt_async_config"))


def check_simulated(files: Sequence[Path]) -> None:
    """Refuse a configuration by which a live bot would reach anything but the loopback exchange.

    :param files: all of it, later ones over earlier ones; the environment goes over them, as in freqtrade
    :raises ReplayError: naming the first setting that is refused, without its value where that may be secret
    """
    config = deep_merge_dicts(environment_vars_to_dict(), load_from_files([str(file) for file in files]))
    exchange = config.get("exchange", {})
    if config.get("dry_run") is not False:
        raise _refused("dry_run", repr(config.get("dry_run")), "false", "unset FREQTRADE__DRY_RUN")
    if exchange.get("name") != "binance":
        raise _refused("exchange.name", repr(exchange.get("name")), "'binance'", "leave it out of your configuration")
    for name, value in _settings(exchange):
        _check_setting(name, value)
    for client in _CLIENTS:
        merged: dict[str, Any] = {}
        for key in client:
            merged = deep_merge_dicts(exchange.get(key) or {}, merged)
        given = merged.get("urls", {}).get("api", {})
        missing = sorted(set(ccxt.binance().urls["api"]) - set(given))
        if missing:
            name = f"exchange.{client[1]}.urls.api.{missing[0]}"
            raise _refused(name, "not there", "an address on the loopback interface", "leave `urls` out")


def _settings(section: Mapping[str, Any], name: str = "exchange") -> Iterator[tuple[str, Any]]:
    """Every setting of a section and of those in it, by its whole name."""
    for key, value in section.items():
        if isinstance(value, dict):
            yield from _settings(value, f"{name}.{key}")
        elif isinstance(value, list):
            yield from _settings({str(number): one for number, one in enumerate(value)}, f"{name}.{key}")
        else:
            yield f"{name}.{key}", value


def _check_setting(name: str, value: Any) -> None:
    key = name.rpartition(".")[2].lower()
    if key in _CREDENTIALS and value and PLACEHOLDERS.get(name.removeprefix("exchange.")) != value:
        remedy = f"leave it out of your configuration, and unset {_variable(name)}"
        raise _refused(name, "set", "the placeholder of simulated money alone", remedy)
    if "proxy" in name.lower() and value:
        raise _refused(name, "set", "no proxy", f"leave it out, and unset {_variable(name)}")
    if key == "hostname" or (isinstance(value, str) and "://" in value and not _is_loopback(value)):
        remedy = f"leave it out, and unset {_variable(name)}"
        raise _refused(name, repr(value), "an address on the loopback interface", remedy)


def _is_loopback(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return parts.scheme == "http" and parts.username is None and ip_address(parts.hostname or "").is_loopback
    except ValueError:
        return False


def _variable(name: str) -> str:
    return f"FREQTRADE__{name.replace('.', '__').upper()}"


def _refused(name: str, received: str, accepted: str, remedy: str) -> ReplayError:
    return ReplayError(f"simulated money: {name} is {received}; accepted: {accepted}; remedy: {remedy}")
