"""A throw-away SLURM on this machine: one controller, two virtual nodes, and nothing of it in the system's folders.

    python tests/helpers/slurm_sandbox.py start     prints the line that points a shell at it
    python tests/helpers/slurm_sandbox.py stop

Everything lies in one folder; commands find it by SLURM_CONF. Jobs of the partition `urgent` preempt those of `debug`,
which are requeued. Nodes share the machine, memory and cores are not enforced, and there are no GPUs.
"""

import fcntl
import getpass
import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from pathlib import Path

FOLDER = Path(os.environ.get("WORKBENCH_SLURM_FOLDER", "/tmp/workbench-slurm"))
CONF = FOLDER / "slurm.conf"
NODES = ("node1", "node2")
CPUS = 4
PACKAGES = ("slurmctld", "slurmd", "slurm-client", "munge")
PROGRAMS = ("slurmctld", "slurmd", "sbatch", "munged")
PATIENCE = 120
"""Seconds that the installation of packages may take."""

# The options that are not defaults: jobs are tied to no cgroups, a requeued job starts again after seconds (the
# credential of its first run has to expire before), and MASTER_ADDR of a training is the name of its first node.
TEMPLATE = """\
ClusterName=workbench
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort=26817
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket={folder}/munge/socket,cred_expire=5
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
SchedulerParameters=sched_interval=2,bf_interval=2,batch_sched_delay=0,requeue_setup_env_fail,nohold_on_prolog_fail
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
JobRequeue=1
ReturnToService=2
KillWait=5
MinJobAge=300
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool.%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.%n.log
{nodes}
PartitionName=debug Nodes={names} Default=YES MaxTime=INFINITE State=UP PriorityTier=1
PartitionName=urgent Nodes={names} Default=NO MaxTime=INFINITE State=UP PriorityTier=10
"""


class Unavailable(Exception):
    """Why there can be no SLURM here."""


def start() -> None:
    """Bring up what is not running yet; installs packages only where WORKBENCH_SLURM=install allows it.

    Raises:
        Unavailable: packages or rights are missing, or a daemon does not come up.
    """
    FOLDER.mkdir(parents=True, exist_ok=True)
    with _one_at_a_time():
        if _nodes_up():
            return
        _require()
        _configure()
        _start_munge()
        _run_daemon("slurmctld", [*_program("slurmctld"), "-i"])
        for node in NODES:
            _run_daemon(f"slurmd.{node}", [*_program("slurmd"), "-N", node])
        _wait(_nodes_up, 30, f"nodes that are idle; see the logs in {FOLDER}")


def stop() -> None:
    """End all daemons that `start` has started, and remove their folder."""
    daemons = ("slurmctld", *(f"slurmd.{node}" for node in NODES), "munge/munged")
    for name in daemons:
        pid = _pid(name)
        if pid:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)
    for name in daemons:
        _wait(lambda name=name: not _pid(name), 20, f"the end of {name}")
    shutil.rmtree(FOLDER, ignore_errors=True)


@contextmanager
def used():
    """A SLURM for the block alone; what was running before goes on, and what tests have started ends with the last."""
    _require()
    with open(FOLDER.with_suffix(".users"), "w") as users, open(FOLDER.with_suffix(".turn"), "w") as turn:
        fcntl.flock(users, fcntl.LOCK_SH)
        fcntl.flock(turn, fcntl.LOCK_EX)  # jobs of two tests would preempt each other
        if not _nodes_up():
            start()
            (FOLDER / "of_tests").touch()
        before = os.environ.get("SLURM_CONF")
        os.environ["SLURM_CONF"] = str(CONF)
        try:
            yield
        finally:
            os.environ.pop("SLURM_CONF")
            if before is not None:
                os.environ["SLURM_CONF"] = before
            fcntl.flock(turn, fcntl.LOCK_UN)
            with suppress(BlockingIOError):
                fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if (FOLDER / "of_tests").exists():
                    stop()


@contextmanager
def _one_at_a_time():
    with open(FOLDER.with_suffix(".lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _require() -> None:
    missing = [name for name in PROGRAMS if shutil.which(name) is None]
    if missing and os.environ.get("WORKBENCH_SLURM") == "install" and os.geteuid() == 0 and shutil.which("apt-get"):
        with _one_at_a_time():
            _install_once()
        missing = [name for name in PROGRAMS if shutil.which(name) is None]
    if missing:
        raise Unavailable(
            f"{', '.join(missing)} not installed; on Debian, WORKBENCH_SLURM=install as root installs {PACKAGES}"
        )
    if os.geteuid() != 0:
        raise Unavailable(f"the daemons of SLURM need root, this is {getpass.getuser()}")


def _install_once() -> None:
    """Install what is missing, unless another process of these tests has just done so, or failed to."""
    failed = FOLDER.with_suffix(".failed")
    if failed.exists() and time.time() - failed.stat().st_mtime < 600:
        raise Unavailable(failed.read_text())
    if all(map(shutil.which, PROGRAMS)):
        return
    try:
        _install()
    except Unavailable as reason:
        failed.write_text(str(reason))
        raise


def _install() -> None:
    """Ask for the packages for `PATIENCE` seconds at most: where no network answers, apt-get tries for long."""
    policy = Path("/usr/sbin/policy-rc.d")  # keeps packages from starting services of their own
    ours = not policy.exists()
    if ours:
        policy.write_text("#!/bin/sh\nexit 101\n")
        policy.chmod(0o755)
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    end = time.monotonic() + PATIENCE
    apt = ["apt-get", "-qq", "-o", "Acquire::Retries=0", "-o", "Acquire::http::Timeout=10"]
    try:
        for words in (["update"], ["install", "-y", "--no-install-recommends", *PACKAGES]):
            left = max(1.0, end - time.monotonic())
            done = subprocess.run([*apt, *words], env=environment, capture_output=True, text=True, timeout=left)
            if done.returncode:
                raise Unavailable(f"apt-get {words[0]} failed: {done.stderr.strip().splitlines()[-1:]}")
    except subprocess.TimeoutExpired as error:
        raise Unavailable(f"packages could not be installed within {PATIENCE} s") from error
    finally:
        if ours:
            policy.unlink()


def _configure() -> None:
    host = socket.gethostname().partition(".")[0]
    known = Path("/etc/hosts").read_text()
    new = "".join(f"127.0.0.1 {name}\n" for name in (host, *NODES) if name not in known.split())
    if new:
        with open("/etc/hosts", "a") as hosts:
            hosts.write(new)
    for name in ("state", *(f"spool.{node}" for node in NODES)):
        (FOLDER / name).mkdir(exist_ok=True)
    nodes = "\n".join(
        f"NodeName={node} NodeHostname={host} NodeAddr=127.0.0.1 Port={26818 + i} CPUs={CPUS} RealMemory=4000"
        for i, node in enumerate(NODES)
    )
    CONF.write_text(TEMPLATE.format(folder=FOLDER, host=host, nodes=nodes, names=",".join(NODES)))
    version = subprocess.run(["slurmd", "-V"], capture_output=True, text=True).stdout.split()[-1]
    modern = tuple(map(int, version.split(".")[:2])) >= (23, 2)
    (FOLDER / "cgroup.conf").write_text("CgroupPlugin=" + ("disabled\n" if modern else "cgroup/v1\n"))


def _start_munge() -> None:
    """A daemon with a key of its own: that of the machine, if there is one, stays as it is."""
    folder, user = FOLDER / "munge", pwd.getpwnam("munge")
    folder.mkdir(exist_ok=True)
    FOLDER.chmod(0o755)
    folder.chmod(0o755)
    key = folder / "key"
    if not key.exists():
        key.write_bytes(secrets.token_bytes(128))
    key.chmod(0o400)
    for path in (folder, key):
        os.chown(path, user.pw_uid, user.pw_gid)
    options = {"key-file": key, "socket": folder / "socket", "pid-file": folder / "munged.pid"}
    options |= {"log-file": folder / "log", "seed-file": folder / "seed"}
    words = ["setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups", *_program("munged")]
    _run_daemon("munge/munged", [*words, *(f"--{name}={value}" for name, value in options.items())])


def _program(name: str) -> list[str]:
    found = shutil.which(name) or shutil.which(name, path="/usr/sbin:/sbin")
    return [found or name]


def _run_daemon(name: str, words: list[str]) -> None:
    if _pid(name):
        return
    with open(FOLDER / "start.log", "a") as log:
        environment = {**os.environ, "SLURM_CONF": str(CONF)}
        subprocess.run(words, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log, timeout=30)
    _wait(lambda: _pid(name), 10, f"{name}; see {FOLDER / 'start.log'}")


def _pid(name: str) -> int:
    """Of a daemon that lives, else 0."""
    try:
        pid = int((FOLDER / f"{name}.pid").read_text())
        os.kill(pid, 0)
    except (OSError, ValueError):
        return 0
    return pid


def _nodes_up() -> bool:
    if not CONF.exists() or shutil.which("sinfo") is None:
        return False
    words = ["sinfo", "--noheader", "--Node", "--partition=debug", "--format=%T"]
    with suppress(subprocess.TimeoutExpired):
        done = subprocess.run(
            words, env={**os.environ, "SLURM_CONF": str(CONF)}, capture_output=True, text=True, timeout=10
        )
        states = done.stdout.split()
        return len(states) == len(NODES) and set(states) <= {"idle", "mixed", "allocated", "completing"}
    return False


def _wait(condition, seconds: float, what: str) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise Unavailable(f"waited {seconds} s in vain for {what}")
        time.sleep(0.1)


if __name__ == "__main__":
    if sys.argv[1:] == ["stop"]:
        stop()
    else:
        start()
        print(f"export SLURM_CONF={CONF}")
