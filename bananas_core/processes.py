"""Starting other Python processes of ours, and what they need of the operating system."""

from __future__ import annotations

import asyncio
import ctypes
import logging
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from typing import Any, Final

PR_SET_PDEATHSIG: Final = 1
_PAGE: Final = resource.getpagesize()


def spawn(
    module: str, arguments: Sequence[str], *, own_group: bool = False
) -> tuple[subprocess.Popen[bytes], socket.socket]:
    """Start ``python -m module FD PARENT_PID arguments…`` and give our end of a socket to it.

    ``own_group``: a process group of its own, so that what it starts can be killed with it.
    """
    ours, theirs = socket.socketpair()
    try:
        command = [sys.executable, "-m", module, str(theirs.fileno()), str(os.getpid())]
        process = subprocess.Popen(
            [*command, *arguments],
            stdin=subprocess.DEVNULL,
            pass_fds=(theirs.fileno(),),
            process_group=0 if own_group else None,
        )
    except BaseException:
        ours.close()
        raise
    finally:
        theirs.close()
    return process, ours


def kill(process: subprocess.Popen[bytes], *, group: bool = False) -> None:
    """SIGKILL, to the whole group if it has its own. Safe to repeat."""
    if process.poll() is None or group:
        try:
            if group:
                os.killpg(process.pid, signal.SIGKILL)
            else:
                process.kill()
        except (ProcessLookupError, PermissionError):
            pass  # it is gone, with all that it started


def inherit(fd: int) -> socket.socket:
    """The child's end of the socket that ``spawn`` made; our own children won't have it."""
    os.set_inheritable(fd, False)
    return socket.socket(fileno=fd)


def die_with_parent(parent: int) -> None:
    """Have the kernel kill this process when its parent ends, whatever Python is doing then.

    Linux only; elsewhere the end of the pipe has to do, see ``watch_parent``.
    """
    if sys.platform == "linux":
        libc = ctypes.CDLL(None, use_errno=True)
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)  # it ended before we asked


def watch_parent(parent: int, *, every: float = 1.0, leave: float = 4.0) -> None:
    """End this process ``leave`` seconds after its parent, if it hasn't ended by itself.

    A thread, so that a blocked event loop doesn't keep an orphan alive.
    """

    def watch() -> None:
        pause = threading.Event()
        while os.getppid() == parent:
            pause.wait(every)
        pause.wait(leave)
        os._exit(1)

    threading.Thread(target=watch, name="bananas-parent", daemon=True).start()


def resident_memory() -> int:
    """Bytes of memory that this process occupies now (where the system tells; else its peak)."""
    try:
        with open("/proc/self/statm", "rb") as file:
            return int(file.read().split()[1]) * _PAGE
    except OSError:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024


def loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """uvloop's loops if it is installed, else None: asyncio's own."""
    try:
        import uvloop
    except ImportError:
        return None
    factory: Any = uvloop.new_event_loop
    return factory  # type: ignore[no-any-return]


def set_up_logging() -> None:
    """Warnings go to stderr, unless the app has set up logging itself."""
    if not logging.getLogger().handlers:
        logging.basicConfig(
            level=logging.WARNING,
            format="%(asctime)s %(levelname)s %(process)d %(name)s: %(message)s",
        )
