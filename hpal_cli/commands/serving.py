"""Serves a page until somebody ends it; `label --serve` and `view` share this."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from hpal_cli.commands.console import Console

if TYPE_CHECKING:
    from hpal_cli.page.api import PageApi

REDIRECT_SECONDS = 60.0
"""Seconds in which a browser must have started and read the file that leads it to the page."""


def run_page(console: Console, page_api: PageApi, *, host: str, port: int | None, browser: bool) -> None:
    """Serves the page until Ctrl-C, or until the page itself ends it. Prints the address, with its token, on stdout.

    Raises:
        HpalError: the page cannot be served at this host and port.
    """
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
    ending = contextlib.ExitStack()

    def ready(stop: Callable[[], None]) -> None:
        stopping.append(stop)
        console.data(address)
        sys.stdout.flush()
        opened = browser and _has_desktop() and _open_in_browser(ending.enter_context(_redirect_file(address)))
        console.say(
            "opened in the browser (if it shows nothing, open this address); Ctrl-C ends it"
            if opened
            else "open this address in a browser; Ctrl-C ends it"
        )

    app = make_app(page_api, token=token, hosts=allowed_hosts(host), stop=lambda: stopping[0]())
    try:
        with ending:
            serve(app, listening, ready)
    finally:
        page_api.close()


@contextlib.contextmanager
def _redirect_file(address: str) -> Iterator[str]:
    """Yields the address of a file that redirects a browser to `address`. The browser is started with this file, since
    every user of the computer can see the arguments of a program, and the token must not be among them. Only the owner
    can read the file, and it is removed after `REDIRECT_SECONDS` seconds."""
    import tempfile
    import threading
    from html import escape
    from pathlib import Path

    # Only its owner can read such a folder.
    folder = tempfile.TemporaryDirectory(prefix="hpal-", ignore_cleanup_errors=True)
    path = Path(folder.name) / "page.html"
    path.touch(mode=0o600)
    path.write_text(f'<!doctype html><meta http-equiv="refresh" content="0; url={escape(address)}"><title>hpal</title>')
    timer = threading.Timer(REDIRECT_SECONDS, folder.cleanup)
    timer.daemon = True
    timer.start()
    try:
        yield path.as_uri()
    finally:
        timer.cancel()
        folder.cleanup()


def _open_in_browser(address: str) -> bool:
    import webbrowser

    return webbrowser.open(address)


def _has_desktop() -> bool:
    return sys.platform == "darwin" or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
