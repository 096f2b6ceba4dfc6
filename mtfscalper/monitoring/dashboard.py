"""optuna-dashboard and TensorBoard for a study, on one address, offline."""

from __future__ import annotations

import argparse
import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mtfscalper.monitoring.dashboard_door import TOKEN_LENGTH_MIN, Door, is_loopback
from mtfscalper.monitoring.study_options import TOKEN_VARIABLE
from mtfscalper.search.attachments import TENSORBOARD_PATH, artifact_store
from mtfscalper.search.errors import StudyError
from mtfscalper.search.looking import folder_of, open_to_look, study_of
from mtfscalper.search.study_folder import StudyFolder

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIApplication
    from werkzeug.serving import BaseWSGIServer

_PREFIX, _FONTS = TENSORBOARD_PATH.rstrip("/"), "/font-roboto"


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


def serve(args: argparse.Namespace) -> int:
    """Serve the dashboard until it is interrupted.

    :raises StudyError: see :func:`dashboard_server`
    :return: exit status
    """
    # It writes a line for every request.
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = dashboard_server(args)
    host = f"[{args.host}]" if ":" in args.host else args.host
    asks = f", for whoever knows {TOKEN_VARIABLE}" if os.environ.get(TOKEN_VARIABLE) else ", for this machine alone"
    print(f"Dashboard: http://{host}:{server.server_port}/{asks}. TensorBoard: {_PREFIX}/ there. Ctrl-C ends it.")
    try:
        server.serve_forever()
    finally:
        server.server_close()
    return 0


def dashboard_server(args: argparse.Namespace) -> BaseWSGIServer:
    """A server that is bound to its address and serves nothing yet.

    :raises StudyError: if the study cannot be looked at, or the address not be had
    """
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


def dashboard_application(url: str | None, folder: StudyFolder, token: str | None, userdir: Path) -> WSGIApplication:
    """The dashboard of one study, with TensorBoard beside it, behind the door.

    :param url: of the database, None for the study's journal
    """
    from optuna_dashboard import wsgi
    from werkzeug.middleware.dispatcher import DispatcherMiddleware

    storage = open_to_look(folder, url)
    study_of(storage, folder.path.name)
    board = tensorboard_application(userdir / "models")
    # TensorBoard takes its prefix off by itself, and asks for its fonts without one.
    places = {_PREFIX: _at(board, _PREFIX), _FONTS: _at(board, _PREFIX + _FONTS)}
    both = DispatcherMiddleware(wsgi(storage, artifact_store=artifact_store(folder)), places)
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
    board.configure(("tensorboard", "--logdir", str(models), "--path_prefix", _PREFIX, "--load_fast", "false"))
    board.launch()
    return held[0]


def _at(application: WSGIApplication, place: str) -> WSGIApplication:
    """An application that gets its whole path, the place included."""

    def whole(environ: Any, start_response: Any) -> Any:
        path = place + environ.get("PATH_INFO", "")
        return application({**environ, "SCRIPT_NAME": "", "PATH_INFO": path}, start_response)

    return whole
