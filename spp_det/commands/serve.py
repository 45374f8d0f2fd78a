"""``spp-det serve``: a labelling assistant for Label Studio, and detection over HTTP."""

from __future__ import annotations

import logging
import os
import signal
import socket
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from spp_det.commands import options
from spp_det.commands.process import goes_on
from spp_det.commands.terminal import say
from spp_det.errors import MissingPackageError, UserError

logger = logging.getLogger(__name__)

TOKEN, KEY = "SPP_DET_TOKEN", "LABEL_STUDIO_API_KEY"


def serve(
    config: options.Recipe,
    photos: Annotated[Path, typer.Option(help="Folder of the photos that are labelled.")],
    labels: Annotated[Path, typer.Option(help="Folder for what was labelled (Pascal VOC) and the model.")],
    overrides: options.Overrides = None,
    model: Annotated[
        Path | None, typer.Option(help="Proposes boxes until the labels have taught a model of their own.")
    ] = None,
    label_studio: Annotated[
        str | None,
        typer.Option(help=f"Label Studio's address, for photos not in --photos; its token is in {KEY}."),
    ] = None,
    host: Annotated[str, typer.Option(help="The address to listen at.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535)] = 9090,
    token: Annotated[
        str | None, typer.Option(envvar=TOKEN, help="Whoever asks must send it; needed for other hosts.")
    ] = None,
    score: Annotated[float, typer.Option(min=0, max=1, help="Propose no box below.")] = 0.5,
) -> None:
    """Propose boxes in Label Studio, and learn from each photo that is labelled.

    In Label Studio's project settings, add http://127.0.0.1:9090 as a model. docs/labelling.md has all steps.
    """
    from spp_det.config.file import load_config

    settings = load_config(config, overrides or [])
    goes_on("the same command goes on with all that was labelled")
    try:
        import uvicorn

        from spp_det.serving.app import make_app
        from spp_det.serving.guard import is_loopback
    except ModuleNotFoundError as error:
        if error.name not in ("uvicorn", "starlette", "anyio"):
            raise
        raise MissingPackageError(f"serve needs {error.name}: pip install spp_det[serve]") from error
    if not is_loopback(host) and not token:
        raise UserError(
            f"--host {host}: others can reach it, so it needs a secret: --token, or the variable {TOKEN}"
        )
    if token is not None and (
        len(token) < 8 or not token.isascii() or not token.isprintable() or " " in token
    ):
        raise UserError("--token: must be at least 8 visible ASCII characters")

    from spp_det.runtime.run_folder import alone_in
    from spp_det.serving.desk import Desk
    from spp_det.serving.fetch import LabelStudio

    studio = None if label_studio is None else LabelStudio(label_studio, os.environ.get(KEY, "").strip())
    with alone_in(labels):
        desk = Desk(settings, photos, labels, model=model, label_studio=studio, score=score)
        server = uvicorn.Server(
            uvicorn.Config(
                make_app(desk, host, token),
                host=host,
                port=port,
                log_config=None,
                log_level="warning",
                access_log=False,
                server_header=False,
                limit_concurrency=32,
                timeout_graceful_shutdown=2,
                proxy_headers=False,
                ws="none",
            )
        )
        sockets = [_listening(host, port)]
        port = sockets[0].getsockname()[1]
        shown = f"[{host}]" if ":" in host else host
        where = f"http://{escape(shown)}:{port}"
        say(f"[bold green]serving[/] {where} (Ctrl-C ends it); labels: {escape(str(labels))}")
        # The server ends by itself, then raises its signal again, at which `run_app` would end by force.
        heard_by = signal.set_wakeup_fd(-1)
        try:
            server.run(sockets)
        finally:
            signal.set_wakeup_fd(heard_by)
            desk.close()


def _listening(host: str, port: int) -> socket.socket:
    """A socket that listens at an address. Raises UserError where that is not to be had."""
    try:
        family, kind, proto, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listening = socket.socket(family, kind, proto)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
    except OSError as error:
        raise UserError(f"--host {host} --port {port}: {(error.strerror or str(error)).lower()}") from None
    return listening
