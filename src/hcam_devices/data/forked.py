"""The router's worker as a fork of its controller, which has imported what both need.

Crossbar starts the worker as another Python, which would import everything again. The fork is
made before the controller's reactor runs, and waits until the controller starts its worker.
"""

import json
import os
import socket
import sys
from typing import Any

STREAMS = 4
"""Standard input, output and error of the worker, and what it tells the controller."""
os.dup2(0, STREAMS - 1, inheritable=False)  # or the reactor's own files would have the number

from twisted.internet import process, reactor  # noqa: E402


class Process(process.Process):  # type: ignore[misc]
    """A process of the controller. The first one is the fork; any other is started as usual."""

    forks: list[tuple[int, socket.socket]] = []  # noqa: RUF012

    def _fork(self, *args: Any, fdmap: dict[int, int]) -> None:
        if not self.forks:
            super()._fork(*args, fdmap=fdmap)
            return
        self.pid, channel = self.forks.pop()
        self.status = -1  # as Twisted does
        with channel:
            socket.send_fds(channel, [b"."], [fdmap[number] for number in range(STREAMS)])
            channel.sendall(json.dumps([os.fsdecode(word) for word in args[4]]).encode())


def becomes_worker() -> bool:
    """Fork this process. Return False; in the fork, once it is to be the worker, return True.

    ``sys.argv`` then has the worker's arguments.
    """
    here, there = socket.socketpair()
    if pid := os.fork():
        there.close()
        Process.forks.append((pid, here))
        process.Process = Process
        return False
    here.close()
    with there:
        found, files, *_ = socket.recv_fds(there, 1, STREAMS)
        if not found:
            os._exit(0)  # the controller has ended
        words = json.loads(there.makefile().read())
    for number, file in enumerate(files):
        os.dup2(file, number)
        os.close(file)
    sys.argv[1:] = words[words.index("--cbdir") :]
    streams: list[Any] = [sys.stdout, sys.stderr]
    for stream in streams:
        stream.reconfigure(write_through=True)  # as Python's -u
    reactor.__init__()  # with files of its own
    return True
