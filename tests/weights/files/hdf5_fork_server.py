"""Many children of `hdf5_child` from one interpreter, for fuzzing: only Python's start is shared.

A script. Standard input is a socket that brings tasks with three open files (what becomes standard
input, output and error). Each task runs in a fork of this process, by the child's own `main` and
so under its limits; the answers are its process id, then its exit code and peak memory in KiB.
"""

from __future__ import annotations

import json
import os
import socket
import sys

sys.path.extend(sys.argv[1:])  # the child's folder, h5py's, numpy's
import hdf5_child


def run(task: str, files: list[int]) -> None:
    try:
        for number, file in enumerate(files):
            os.dup2(file, number)
        os.closerange(3, 64)
        code = hdf5_child.main([task])
    except BaseException:
        code = 1
    os._exit(code)


tasks = socket.socket(fileno=os.dup(0))
while True:
    content, files, _, _ = socket.recv_fds(tasks, 2**16, 3)
    if not content:
        break
    process = os.fork()
    if process == 0:
        run(content.decode(), files)
    for file in files:
        os.close(file)
    tasks.send(str(process).encode())
    _, status, usage = os.wait4(process, 0)
    tasks.send(json.dumps([os.waitstatus_to_exitcode(status), usage.ru_maxrss]).encode())
