"""optuna-dashboard and TensorBoard for a study, on one address, offline."""

from __future__ import annotations

import argparse
import os
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mtfscalper.monitoring.dashboard_door import TOKEN_LENGTH_MIN, Door, is_loopback
from mtfscalper.monitoring.study_watch import add_study_arguments
from mtfscalper.search.attachments import TENSORBOARD_PATH, artifact_store
from mtfscalper.search.errors import StudyError
from mtfscalper.search.looking import folder_of, open_to_look, study_of

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIApplication
    from werkzeug.serving import BaseWSGIServer

DEFAULT_PORT = 8090
TOKEN_VARIABLE = "MTFSCALPER_DASHBOARD_TOKEN"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``mtfscalper dashboard``."""
    add_study_arguments(parser)
    parser.add_argument("--host", default="127.0.0.1", help="address; others than this machine's own need a token")
    parser.add_argument("--port", type=int, default=DEFAULT_PORT, help=f"0 for a free one (default: {DEFAULT_PORT})")
    parser.epilog = (
        f"The environment variable {TOKEN_VARIABLE} holds the token that whoever looks must know; without it only this "
        "machine is served."
    )


def token_for(host: str) -> str | None:
    """The token that a dashboard asks for, None for none.

    :raises StudyError: if an address that others reach has none, or one that can be guessed
    """
    token = os.environ.get(TOKEN_VARIABLE) or None
    remedy = f"remedy: {TOKEN_VARIABLE}=$(openssl rand -hex 24) mtfscalper dashboard --host {host} ..."
    if token is None and not is_loopback(host):
        raise StudyError(
            f"--host is {host!r}, which others reach, and {TOKEN_VARIABLE} is not set; accepted: 127.0.0.1, or a token "
            f"of at least {TOKEN_LENGTH_MIN} characters; {remedy}"
        )
    if token is not None and (len(token) < TOKEN_LENGTH_MIN or not token.isascii()):
        raise StudyError(
            f"{TOKEN_VARIABLE} has {len(token)} characters; accepted: at least {TOKEN_LENGTH_MIN}, of ASCII; {remedy}"
        )
    return token


def dashboard_server(args: argparse.Namespace) -> BaseWSGIServer:
    """A server that is bound to its address and serves nothing yet.

    :raises StudyError: if the study cannot be looked at, or the address not be had
    """
    for package in ("optuna_dashboard", "werkzeug"):
        if find_spec(package) is None:
            raise StudyError(
                f"the package {package.replace('_', '-')} is not installed, which shows studies in a browser; remedy: "
                "pip install 'mtfscalper[search]'"
            )
    from werkzeug.serving import make_server

    token = token_for(args.host)
    folder = folder_of(args.userdir, args.study)
    application = dashboard_application(args.storage, folder, token, args.userdir)
    try:
        return make_server(args.host, args.port, application, threaded=True)
    except (OSError, SystemExit) as error:
        raise StudyError(
            f"{args.host}:{args.port} cannot be listened on ({error}); accepted: an address of this machine and a free "
            "port; remedy: --port 0 takes a free one"
        ) from error


def dashboard_application(url: str | None, folder: Path, token: str | None, userdir: Path) -> WSGIApplication:
    """The dashboard of one study, with TensorBoard beside it, behind the door.

    :param url: of the database, None for the study's journal
    :param folder: the study's
    """
    from optuna_dashboard import wsgi
    from werkzeug.middleware.dispatcher import DispatcherMiddleware

    storage = open_to_look(folder, url)
    study_of(storage, folder.name)
    board = tensorboard_application(userdir / "models")
    prefix = TENSORBOARD_PATH.rstrip("/")
    # TensorBoard takes the prefix off by itself.
    both = DispatcherMiddleware(wsgi(storage, artifact_store=artifact_store(folder)), {prefix: _whole_path(board)})
    return Door(both, token, writable=TENSORBOARD_PATH)


def tensorboard_application(models: Path) -> WSGIApplication:
    """TensorBoard over whatever was trained and is kept, trials that run now included.

    :param models: ``user_data/models``
    """
    from tensorboard import default, program  # type: ignore[import-untyped]

    held: list[WSGIApplication] = []

    class Taken(program.TensorBoardServer):  # type: ignore[misc]
        """Takes TensorBoard's application, which is served with the dashboard."""

        def __init__(self, application: WSGIApplication, flags: Any) -> None:
            held.append(application)

        def serve_forever(self) -> None:
            return

        def get_url(self) -> str:
            return TENSORBOARD_PATH

        def print_serving_message(self) -> None:
            return

    board = program.TensorBoard(default.get_plugins(), server_class=Taken)
    prefix = TENSORBOARD_PATH.rstrip("/")
    board.configure(("tensorboard", "--logdir", str(models), "--path_prefix", prefix, "--load_fast", "false"))
    board.launch()
    return held[0]


def _whole_path(application: WSGIApplication) -> WSGIApplication:
    """An application that gets its path with the prefix that led to it."""

    def whole(environ: Any, start_response: Any) -> Any:
        path = environ.get("SCRIPT_NAME", "") + environ.get("PATH_INFO", "")
        return application({**environ, "SCRIPT_NAME": "", "PATH_INFO": path}, start_response)

    return whole
