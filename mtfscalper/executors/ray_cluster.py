"""The Ray cluster that trainings run on: one of this machine alone, or one that is there already."""

from __future__ import annotations

import logging
import os
import signal
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from mtfscalper.executors.threads import why_too_many_threads
from mtfscalper.executors.worker import end_at_sigterm
from mtfscalper.machine import usable_processors
from mtfscalper.settings import RLSettings

logger = logging.getLogger(__name__)

_LOOPBACK = "127.0.0.1"
# Ray's own switch for machines that are to be no part of a cluster: all that it starts then listens on the loopback
# address alone. It reads it as it is imported.
_LOOPBACK_ONLY = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
# Its processes of tasks otherwise give way to all others of the machine.
_ORDINARY_PRIORITY = {"RAY_worker_niceness": "0"}
# How long a node may take to start a process that says what is installed there.
_ANSWER_SECONDS = 120.0


class ClusterError(RuntimeError):
    """Ray or its cluster cannot be used. Names what, where, received, accepted, remedy."""


def import_ray() -> Any:
    """The package Ray, which comes with the extra ``ray``.

    :raises ClusterError: if it is not installed
    """
    if (why := why_no_ray()) is not None:
        raise ClusterError(why)
    return import_module("ray")


def why_no_ray() -> str | None:
    """Why Ray cannot be imported, None where it can. Does not import it: that has to be done where it is started."""
    if find_spec("ray") is not None:
        return None
    return (
        "freqai.rl_config.executor is 'ray', and the package ray is not installed; accepted: ray 2.60 or newer; "
        "remedy: pip install 'mtfscalper[ray]', or set executor to 'processes'"
    )


class JobNeeds(NamedTuple):
    """What a training takes of a node.

    :ivar cpus: processors
    :ivar gpus: whole GPUs
    """

    cpus: int
    gpus: int

    def times_in(self, resources: Mapping[str, float]) -> int:
        """How many such trainings run at once on a node with these resources."""
        times = int(resources.get("CPU", 0.0)) // self.cpus
        return min(times, int(resources.get("GPU", 0.0)) // self.gpus) if self.gpus else times


class Cluster:
    """A cluster that this process is connected to.

    :ivar ray: the package
    :ivar name: for messages
    """

    def __init__(self, ray: Any, address: str | None) -> None:
        """
        :param address: of a cluster that is there already; None for one of this machine
        """
        self.ray = ray
        self.name = "Ray's cluster of this machine" if address is None else f"Ray's cluster at {address}"

    def nodes(self) -> list[dict[str, Any]]:
        """What Ray knows of each node that is there now."""
        return [node for node in self.ray.nodes() if node["Alive"]]

    def needs(self, rl: RLSettings) -> JobNeeds:
        """What a training takes, of what the cluster has.

        With ``threads_per_job`` it takes a processor for each thread, for with fewer it gives other bits. With
        ``cpu_count`` no more are taken than the largest node has. ``device`` ``auto`` takes a GPU where there is any.

        :raises ClusterError: if no node can run such a training
        """
        resources = [node["Resources"] for node in self.nodes()]
        device = rl.device
        has_gpus = any(each.get("GPU", 0.0) >= 1 for each in resources)
        largest = max((int(each.get("CPU", 0.0)) for each in resources), default=0)
        cpus = rl.threads_per_job or max(min(rl.cpu_count, largest), 1)
        needs = JobNeeds(cpus, int(device == "cuda" or (device == "auto" and has_gpus)))
        if not any(needs.times_in(each) for each in resources):
            gpu = f" and {needs.gpus} GPU (freqai.rl_config.device is {device!r})" if needs.gpus else ""
            fewer = f", or set freqai.rl_config.threads_per_job to {largest} or less" if cpus > largest > 0 else ""
            raise ClusterError(
                f"none of the {len(resources)} nodes of {self.name} runs a training; accepted: a node with "
                f"{needs.cpus} processors{gpu}; remedy: start one with `ray start --address=... --num-cpus=...`{fewer}"
            )
        return needs

    def slots(self, needs: JobNeeds) -> int:
        """How many trainings the nodes that are there now run at once."""
        return sum(needs.times_in(node["Resources"]) for node in self.nodes())

    def check_nodes(self, needs: JobNeeds) -> None:
        """Compare what is installed on the nodes with what is here.

        :raises ClusterError: naming each node that differs or does not answer, and in what
        """
        here = installed()
        nodes = [node for node in self.nodes() if needs.times_in(node["Resources"])]
        strategy = import_module("ray.util.scheduling_strategies").NodeAffinitySchedulingStrategy
        probe = self.ray.remote(num_cpus=0, max_retries=0)(_probe())
        asked = {
            probe.options(scheduling_strategy=strategy(node["NodeID"], soft=False)).remote(): node for node in nodes
        }
        answered, silent = self.ray.wait(list(asked), num_returns=len(asked), timeout=_ANSWER_SECONDS)
        complaints = [f"{node_name(asked[ref])} did not answer within {_ANSWER_SECONDS:.0f} s" for ref in silent]
        for ref in answered:
            try:
                found = self.ray.get(ref)
            except self.ray.exceptions.RayError as error:
                complaints.append(f"{node_name(asked[ref])} cannot be asked ({error})")
            else:
                complaints += filter(None, [why_different(node_name(asked[ref]), found, here)])
        if complaints:
            raise ClusterError("; ".join(complaints) + _SAME_EVERYWHERE)


_SAME_EVERYWHERE = (
    "; accepted: the same on every node, for only then a training gives the same wherever it runs; remedy: install "
    "what is here there too, or let the code travel with `ray job submit --working-dir` (docs/clusters.md)"
)


def node_name(node: Mapping[str, Any]) -> str:
    """A node as people know it."""
    return f"node {node['NodeManagerAddress']} ({node['NodeManagerHostname']})"


def why_different(where: str, found: Mapping[str, str], here: Mapping[str, str]) -> str | None:
    """In what a node differs from this machine, None if in nothing.

    :param found: of the node, see :func:`installed`
    """
    names = [name for name in {**here, **found} if found.get(name) != here.get(name)]
    said = ", ".join(f"{name} {found.get(name, 'not installed')} (here {here.get(name, 'none')})" for name in names)
    return f"{where} has {said}" if names else None


def check_installed(here: Mapping[str, str]) -> None:
    """On a node: compare what is installed with the machine of the run, for nodes that joined after its start.

    :param here: of the machine of the run
    :raises ClusterError: as :meth:`Cluster.check_nodes`
    """
    there = installed()
    if there != here:
        raise ClusterError(f"{why_different(this_node(), there, here)}{_SAME_EVERYWHERE}")


def check_threads(rl: RLSettings) -> None:
    """On a node: whether it has a processor for each thread of a training. Ray believes what a node was started with.

    :raises ClusterError: naming the node
    """
    if (why := why_too_many_threads(rl)) is not None:
        raise ClusterError(f"{this_node()}: {why}, or start the node with no more --num-cpus than it has")


def this_node() -> str:
    """The node that this process runs on."""
    return f"node {import_ray().util.get_node_ip_address()}"


@cache
def installed() -> Mapping[str, str]:
    """Versions that a training depends on, by name: Python, this package and its code, libraries."""
    found: Mapping[str, str] = _probe()()
    return found


def _probe() -> Any:
    # A function in a function is sent with its code: a node may have another version of this module, or none.
    def probe() -> dict[str, str]:
        import platform

        found = {"Python": platform.python_version()}
        try:
            import mtfscalper
            from mtfscalper import artefacts

            found |= {"mtfscalper": mtfscalper.__version__, "code of mtfscalper": artefacts.code_hash()}
            found |= artefacts.library_versions()
        except ImportError as error:
            found["packages"] = f"not all there: {error}"
        return found

    return probe


@contextmanager
def connected(address: str | None) -> Iterator[Cluster]:
    """A cluster until a ``with`` block ends: one that is there already, or one of this machine, started and stopped.

    The one of this machine listens on the loopback address alone, asks for a token (Ray's own, in ``~/.ray``), and has
    no dashboard.

    :param address: ``auto`` or ``host:port`` of a cluster of which this machine is a node; None for one of this machine
    :raises ClusterError: if Ray is not installed, does not start, or is not there
    """
    with ExitStack() as resources:
        if address is None:
            resources.enter_context(_environment(_LOOPBACK_ONLY | _ORDINARY_PRIORITY))
        ray = import_ray()
        if ray.is_initialized():
            # Somebody in this process holds it, who ends it too.
            yield Cluster(ray, address)
            return
        end_in_order = resources.enter_context(_sigterm_kept())
        if address is None:
            # Ray's own default is /tmp too: the paths of sockets in it may have a hundred characters.
            base = "/tmp" if Path("/tmp").is_dir() else None
            folder = tempfile.TemporaryDirectory(prefix="rl-", dir=base, ignore_cleanup_errors=True)
            arguments = {
                "address": "local",
                "num_cpus": usable_processors(),
                "include_dashboard": False,
                "_temp_dir": resources.enter_context(folder),
            }
        else:
            arguments = {"address": address}
        resources.callback(ray.shutdown)
        try:
            context = ray.init(**arguments, configure_logging=False, log_to_driver=False)
        except Exception as error:
            # Ray raises bare ones too.
            raise ClusterError(_cannot_connect(address, error)) from error
        end_in_order()
        ip = context.address_info["node_ip_address"]
        if address is None and ip != _LOOPBACK:
            raise ClusterError(
                f"Ray would listen on {ip}; accepted: {_LOOPBACK} alone, for whoever reaches it runs code here; "
                "remedy: import ray nowhere before the trainings, or name a cluster in freqai.rl_config.ray_address"
            )
        yield Cluster(ray, address)


def _cannot_connect(address: str | None, error: Exception) -> str:
    # Ray's own says by what it was caused, at the end and behind tracebacks.
    while error.__cause__ is not None and isinstance(error.__cause__, Exception):
        error = error.__cause__
    said = (str(error).strip() or type(error).__name__).splitlines()[-1].split(". ")[0]
    if address is None:
        return f"Ray cannot be started on this machine ({said}); remedy: set freqai.rl_config.executor to 'processes'"
    return (
        f"freqai.rl_config.ray_address is {address!r}, and Ray cannot be reached there ({said}); accepted: the address "
        "of a cluster of which this machine is a node, with its token (RAY_AUTH_MODE=token and RAY_AUTH_TOKEN or "
        "~/.ray/auth_token) and the same Ray and Python; remedy: see `ray status`, or set ray_address to null"
    )


@contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Set variables of the environment until a ``with`` block ends."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextmanager
def _sigterm_kept() -> Iterator[Callable[[], None]]:
    """Leave SIGTERM to whoever handled it, whom Ray replaces as it starts; where nobody did, it ends the run in order.

    :return: is to be called once Ray has started
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda: None
        return
    before = signal.getsignal(signal.SIGTERM) or signal.SIG_DFL

    def take_back() -> None:
        if callable(before):
            signal.signal(signal.SIGTERM, before)
        else:
            end_at_sigterm()

    try:
        yield take_back
    finally:
        signal.signal(signal.SIGTERM, before)
