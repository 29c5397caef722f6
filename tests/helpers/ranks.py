"""Trainings of one or several ranks, and scripts, as processes that can be killed, without an interpreter for each.

A server imports everything once and forks a process per rank: a run costs half a second where the command costs six.
"""

import faulthandler
import json
import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
from contextlib import suppress
from pathlib import Path


class Server:
    """Starts runs; ``with Server() as server: server.run(...)``."""

    def __enter__(self):
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "GOMP_SPINCOUNT": "100"}
        command = [sys.executable, "-W", "ignore", __file__]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        return self

    def __exit__(self, *_):
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait(100)

    def run(self, folder, *words, ranks=1, kill_all=True, timeout=200, **environment):
        """Run the command on some ranks.

        Args:
            folder: working directory.
            words: after ``workbench``.
            ranks: number of processes.
            kill_all: whether the other ranks are killed, too, as soon as one has killed itself.
            timeout: seconds after which all are killed and their status is None.
            environment: of all ranks.

        Returns:
            exit status of each rank (negative: the signal), what each printed, and the seconds from the death of the
            first to the end of the last.
        """
        if ranks > 1:
            words = [words[0], f"--trainer.devices={ranks}", "--trainer.strategy=ddp", *words[1:]]
        return self._ask(folder, words, ranks, kill_all, timeout, environment)

    def script(self, folder, code, *arguments, timeout=200, **environment):
        """Run a script of Python, most of whose imports are made already: its exit status, and what it printed."""
        (status,), (out,), _ = self._ask(folder, arguments, 1, True, timeout, environment, textwrap.dedent(code))
        return status, out

    def _ask(self, folder, words, ranks, kill_all, timeout, environment, script=None):
        request = [str(folder), words, ranks, kill_all, timeout, environment, script]
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        statuses, seconds = json.loads(self._process.stdout.readline())
        return statuses, [(Path(folder) / f"rank{r}.out").read_text() for r in range(ranks)], seconds


def serve():
    from workbench import cli, training  # noqa: F401  imported once, for all processes to come

    for line in sys.stdin:
        folder, words, ranks, kill_all, timeout, environment, script = json.loads(line)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        if ranks > 1:
            environment |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(ranks)}
        pids = []
        for rank in range(ranks):
            pid = os.fork()
            if not pid:
                os.environ.update(environment)
                if ranks > 1:
                    os.environ.update(LOCAL_RANK=str(rank), NODE_RANK="0")
                become(folder, words, rank, script)
            pids.append(pid)
        print(json.dumps(attend(pids, kill_all, timeout)), flush=True)


def become(folder, words, rank, script):
    """Be one rank, to the end."""
    from workbench import cli

    faulthandler.enable()
    os.chdir(folder)
    sys.path.insert(0, folder)
    out = os.open(f"rank{rank}.out", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for number in (1, 2):
        os.dup2(out, number)
    status = 1
    try:
        if script:
            sys.argv = ["-c", *words]
            exec(compile(script, "<script>", "exec"), {"__name__": "__main__"})
            status = 0
        else:
            status = cli.main(words)
    except BaseException:
        import traceback

        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def attend(pids, kill_all, timeout):
    """Wait until all have ended: the status of each, and the seconds between the first death and the last end."""
    began, died = time.monotonic(), None
    statuses = dict.fromkeys(pids, -1000)
    while -1000 in statuses.values():
        for pid in [p for p, status in statuses.items() if status == -1000]:
            found, code = os.waitpid(pid, os.WNOHANG)
            if found:
                statuses[pid] = os.waitstatus_to_exitcode(code)
                if died is None and statuses[pid]:
                    died = time.monotonic()
                    for other in pids if kill_all else []:
                        if statuses[other] == -1000:
                            os.kill(other, signal.SIGKILL)
        if time.monotonic() - began > timeout:
            for pid in [p for p, status in statuses.items() if status == -1000]:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
                statuses[pid] = None
        time.sleep(0.005)
    return list(statuses.values()), time.monotonic() - (died or began)


if __name__ == "__main__":
    serve()
