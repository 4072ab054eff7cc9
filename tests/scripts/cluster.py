"""Slurm on one machine: a controller and two nodes in a temporary folder."""

from __future__ import annotations

import getpass
import platform
import re
import secrets
import shutil
import socket
import subprocess
import tempfile
import time
from pathlib import Path

from tests.scripts.pueue import wait_for
from tests.scripts.soaking import Checkout

NODES = ("127.0.0.1", "127.0.0.2")  # names that torchrun can connect to
# A requeued job waits for the end of its credentials, by default 120 s.
CONFIGURATION = """
ClusterName=soak
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket,cred_expire=20
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/%n
SlurmctldPidFile={folder}/controller.pid
SlurmdPidFile={folder}/%n.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
MailProg=/bin/true
MinJobAge=36000
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
NodeName=127.0.0.1 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs=2
NodeName=127.0.0.2 NodeHostname={host} NodeAddr=127.0.0.2 Port={ports[2]} CPUs=2
PartitionName=low Nodes=ALL Default=YES PriorityTier=1
PartitionName=grace Nodes=ALL PriorityTier=1 GraceTime=60
PartitionName=high Nodes=ALL PriorityTier=2
"""


def free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


class Cluster:
    """Jobs of ``checkout`` on two nodes of two CPUs each, without accounting."""

    def __init__(self, checkout: Checkout) -> None:
        self.checkout = checkout
        self.folder = folder = Path(tempfile.mkdtemp(prefix="slurm"))
        for name in ("munge", "state", *NODES):
            (folder / name).mkdir(mode=0o755)
        key = folder / "munge" / "key"
        key.write_bytes(secrets.token_bytes(1024))
        key.chmod(0o400)
        host = platform.node().split(".")[0]
        values = {"host": host, "user": getpass.getuser(), "folder": folder}
        text = CONFIGURATION.format(ports=free_ports(3), **values)
        (folder / "slurm.conf").write_text(text)
        checkout.variables["SLURM_CONF"] = str(folder / "slurm.conf")
        files = {"key-file": "key", "socket": "socket", "pid-file": "pid"}
        files |= {"log-file": "log", "seed-file": "seed"}
        munge = [f"--{flag}={folder}/munge/{name}" for flag, name in files.items()]
        self.daemons: list[subprocess.Popen] = []
        self._start("munged", "--foreground", "--force", *munge)
        wait_for((folder / "munge" / "socket").exists, 20)
        self._start("slurmctld", "-D")
        for name in NODES:
            self._start("slurmd", "-D", "-N", name)
        wait_for(lambda: self._idle() == 2, 60)

    def _start(self, *command: str) -> None:
        environment = self.checkout.variables
        with open(self.folder / f"{len(self.daemons)}.log", "w") as log:
            self.daemons.append(
                subprocess.Popen(command, stdout=log, stderr=log, env=environment)
            )

    def _idle(self) -> int:
        command = ["sinfo", "--noheader", "--Node", "--partition=low", "--states=idle"]
        environment = self.checkout.variables
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        return done.stdout.count("idle")

    def __call__(self, *command: str) -> str:
        """The output of one of Slurm's commands."""
        return self.checkout.start(*command)

    def submit(self, name: str, *words: str) -> str:
        """``sbatch WORDS`` with the log ``NAME.out``; returns the job's number."""
        return self("sbatch", "--parsable", f"--output={name}.out", *words).strip()

    def job(self, number: str) -> dict[str, str]:
        """What Slurm knows of a job. A busy controller is asked again."""
        command = ("scontrol", "show", "job", number)
        try:
            text = self(*command)
        except AssertionError:
            time.sleep(5)
            text = self(*command)
        return dict(re.findall(r"(\w+)=(\S*)", text))

    def wait(self, number: str, state: str, seconds: float = 600) -> None:
        """Until the job is in the state.

        Raises:
            AssertionError: if it ends in another one.
        """
        ends = {"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL"}

        def reached() -> bool:
            result = self.job(number)["JobState"]
            assert result == state or result not in ends, result
            return result == state

        wait_for(reached, seconds)

    def close(self) -> None:
        self("scancel", f"--user={getpass.getuser()}")
        wait_for(lambda: not self("squeue", "--noheader"), 60)
        time.sleep(1)
        for daemon in reversed(self.daemons):
            daemon.terminate()
            daemon.wait(30)
        shutil.rmtree(self.folder, ignore_errors=True)
