"""`python fork_server.py SOCKET`: calls of `hpal` in processes that are forked from one that has imported everything.

A request is a line of JSON, the words, the folder and the environment of a call, with its three streams as descriptors.
The answer is two lines: the id of the call's process, which leads a process group, and the call's exit status, negative
for a signal. If a client hangs up before the second line, the server kills the group. The server ends with its stdin,
and then removes the socket's folder.
"""

from __future__ import annotations

import contextlib
import json
import multiprocessing.util
import os
import select
import shutil
import signal
import socket
import sys
import threading
import traceback
from collections.abc import Iterable, Iterator
from types import ModuleType
from typing import NoReturn

import lines_covered
import preload
import torch

from hpal_cli import parallel
from hpal_cli.commands.app import main


def serve(address: str) -> None:
    # A byte for each child that ended, so that one `select` waits for everything.
    woken, wake = socket.socketpair()
    for end in (woken, wake):
        end.setblocking(False)
    signal.set_wakeup_fd(wake.fileno())
    signal.signal(signal.SIGCHLD, lambda *_: None)
    # Of each process for whose end somebody waits, who that is.
    clients: dict[int, socket.socket] = {}
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(address)
        listener.listen(64)
        print(flush=True)
        while True:
            waiting = {client: pid for pid, client in clients.items()}
            ready = select.select([sys.stdin, listener, woken, *waiting], [], [])[0]
            if sys.stdin in ready:
                break
            if woken in ready:
                woken.recv(1 << 12)
                for pid, status in _ended():
                    client = clients.pop(pid, None)
                    if client is not None:
                        waiting.pop(client)
                        _answer(client, status)
                        client.close()
            for client in waiting.keys() & set(ready):
                # It has nothing more to say, so this is its end.
                _kill(waiting[client])
                clients.pop(waiting[client]).close()
            if listener in ready:
                client, _ = listener.accept()
                begun = _begin(client, [listener, woken, wake, *waiting])
                if begun is None:
                    client.close()
                else:
                    clients[begun] = client
    for pid in clients:
        _kill(pid)
    shutil.rmtree(os.path.dirname(address))


def _begin(client: socket.socket, held: Iterable[socket.socket]) -> int | None:
    """Forks a process for the call that the client asks for, without these sockets. Returns its id, or None if the
    client was killed before it had asked."""
    data, streams, _, _ = socket.recv_fds(client, 1 << 16, 3)
    while not data.endswith(b"\n"):
        more = client.recv(1 << 16)
        if not more:
            for stream in streams:
                os.close(stream)
            return None
        data += more
    words, folder, env = json.loads(data)
    pid = os.fork()
    if pid == 0:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        for one in (client, *held):
            one.close()
        _call(words, folder, env, streams)
    for stream in streams:
        os.close(stream)
    with contextlib.suppress(OSError):
        # As it does itself; whoever is first.
        os.setpgid(pid, pid)
    _answer(client, pid)
    return pid


def _answer(client: socket.socket, number: int) -> None:
    with contextlib.suppress(OSError):
        client.sendall(f"{number}\n".encode())


def _kill(group: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, signal.SIGKILL)


def _ended() -> Iterator[tuple[int, int]]:
    """The processes that have ended, and their exit status."""
    with contextlib.suppress(ChildProcessError):
        while True:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                return
            yield pid, os.waitstatus_to_exitcode(status)


def _call(words: list[str], folder: str, env: dict[str, str], streams: list[int]) -> NoReturn:
    os.setpgid(0, 0)
    for number, held in enumerate(streams):
        os.dup2(held, number)
        os.close(held)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(env)
    # Anew, since they have a buffer that fits what they are.
    sys.stdin = os.fdopen(0, closefd=False)
    sys.stdout = os.fdopen(1, "w", closefd=False)
    sys.stderr = os.fdopen(2, "w", buffering=1, errors="backslashreplace", closefd=False)
    sys.argv = ["hpal", *words]
    # What it spawns would import this module, and so all of it anew.
    sys.modules["__main__"] = ModuleType("__main__")
    # Processes for the two or three small scenes of a test would take longer to begin than the work; --jobs has tests.
    parallel.cores = lambda: 1
    torch.set_num_threads(1)
    end_counting = lines_covered.begin()
    code = 1
    try:
        main()
    except SystemExit as end:
        code = int(end.code or 0)
    except BaseException:
        traceback.print_exc()
    # As a process of multiprocessing ends: to take down an interpreter that has imported so much takes long.
    threading._shutdown()
    multiprocessing.util._exit_function()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    end_counting()
    os._exit(code)


if __name__ == "__main__":
    if "HPAL_COUNTED" in os.environ:
        # Some of the calls will be counted.
        import coverage  # noqa: F401
    preload.preload()
    serve(sys.argv[1])
