"""Serves a page until somebody ends it; `label --serve` and `view` share this."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

from hpal_cli.commands.console import Console

if TYPE_CHECKING:
    from hpal_cli.page.desk import Desk


def run_page(console: Console, desk: Desk, *, host: str, port: int | None, browser: bool) -> None:
    """Serves until Ctrl-C or until the page ends it. The address, with its token, is on stdout.

    Raises:
        HpalError: no address to serve at.
    """
    import webbrowser

    from hpal_cli.page.server import LOOPBACK, PORT, allowed_hosts, free_socket, make_app, new_token, serve

    listening, number, first = free_socket(host, port)
    if not first:
        console.say(f"port {port or PORT} is in use: {number} is taken instead")
    token = new_token()
    if host not in LOOPBACK:
        console.warn(
            f"--host {host}: whoever can reach this machine and has the address with its token can see these scenes "
            "and answer; what is sent is not encrypted, so use it in a network that you trust"
        )
    name = f"[{host}]" if ":" in host else host
    if host in ("0.0.0.0", "::"):
        import socket

        name = socket.gethostname()
    address = f"http://{name}:{number}/#token={token}"
    stopping: list[Callable[[], None]] = []

    def ready(stop: Callable[[], None]) -> None:
        stopping.append(stop)
        console.data(address)
        sys.stdout.flush()
        opened = browser and _has_desktop() and webbrowser.open(address)
        console.say(
            "opened in the browser; Ctrl-C ends it" if opened else "open this address in a browser; Ctrl-C ends it"
        )

    app = make_app(desk, token=token, hosts=allowed_hosts(host), stop=lambda: stopping[0]())
    try:
        serve(app, listening, ready)
    finally:
        desk.close()


def _has_desktop() -> bool:
    return sys.platform == "darwin" or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
