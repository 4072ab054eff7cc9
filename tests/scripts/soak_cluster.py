"""``scripts/slurm.sh`` on a real Slurm: ``scripts/soak.sh cluster``.

A controller and two nodes in a temporary folder of this machine. What a user is told
about it is in docs/clusters.md.
"""

import getpass
import platform
import re
import secrets
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from tests.scripts.pueue import wait_for
from tests.scripts.soaking import Checkout, training

EPOCHS = 300
LONG = 600  # seconds, on a machine with other work
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


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    made = Cluster(Checkout(tmp_path_factory.mktemp("checkout")))
    yield made
    made.close()


def submit(cluster: Cluster, name: str, *options: str, epochs: int = EPOCHS) -> str:
    words = [*training(epochs), "--exp_name", name]
    return cluster.submit(
        name, "--time=30", *options, "scripts/slurm.sh", "finetune_cls.py", *words
    )


def started(cluster: Cluster, name: str, *options: str, epochs: int = EPOCHS) -> str:
    """The number of a training's job, which has done some steps."""
    number = submit(cluster, name, *options, epochs=epochs)
    wait_for(lambda: cluster.checkout.steps(name) > 100, LONG)
    return number


def last_words(cluster: Cluster, name: str) -> str:
    """What the job's log says last, below torchrun's traceback."""
    text = (cluster.checkout.folder / f"{name}.out").read_text()
    assert text.count("\n\nJob ") == 1
    traceback, last = text.split("\n\nJob ")
    assert "Traceback" in traceback or "FAILED" in traceback
    print(f"\nJob {last}")  # for the documentation
    return last


def check_requeued(cluster: Cluster, number: str, name: str) -> None:
    """The job returns to the queue, says so, continues, and ends as if undisturbed."""
    wait_for(lambda: cluster.job(number)["Restarts"] == "1", LONG)
    cluster.wait(number, "PENDING")
    last = last_words(cluster, name)
    queued = "stopped by a time limit, preemption or requeue; back in the queue."
    assert last.startswith(f"{number}: {queued}\nIt starts again at ")
    log = f"Log: checkpoints/{name}/run.log, which ends: "
    assert re.search(log + r".* ended by Interrupted: SIGTERM: stopped ", last)
    # The rest in one go: on a busy machine a minute is hardly more than the start.
    cluster("scontrol", "update", f"JobId={number}", "TimeLimit=30")
    cluster.wait(number, "RUNNING")
    start = datetime.fromisoformat(cluster.job(number)["StartTime"])
    (hour,) = re.findall(r"starts again at (\S+) or later", last)
    promised = datetime.combine(start, datetime.strptime(hour, "%H:%M:%S").time())
    assert timedelta(seconds=-2) < start - promised < timedelta(seconds=90)
    cluster.wait(number, "COMPLETED", LONG)
    assert "resuming from its checkpoint at step" in cluster.checkout.log(name)


def test_time_limits(cluster: Cluster) -> None:
    """One minute instead of hours, and 20 s for the checkpoint instead of 240."""
    options = ("--time=1", "--signal=TERM@20")
    number = submit(cluster, "limited", *options, epochs=900)
    check_requeued(cluster, number, "limited")
    cluster.checkout.same("limited", 900)


@pytest.mark.parametrize("how", ["requeue", "preemption", "grace"])
def test_a_job_that_loses_its_node(how: str, cluster: Cluster) -> None:
    partition = {"grace": "grace"}.get(how, "low")
    number = started(cluster, how, f"--nodelist={NODES[0]}", f"--partition={partition}")
    if how == "requeue":
        cluster("scontrol", "requeue", number)
    else:
        preempting = ("--partition=high", f"--nodelist={NODES[0]}", "--exclusive")
        cluster.submit("other", *preempting, "--wrap", "sleep 1")
    check_requeued(cluster, number, how)
    cluster.checkout.same(how, EPOCHS)


def test_a_cancelled_job_stays_away_until_it_is_submitted_again(cluster) -> None:
    number = started(cluster, "cancelled")
    cluster("scancel", number)
    cluster.wait(number, "CANCELLED")
    last = last_words(cluster, "cancelled")
    told = "cancelled or out of time, not requeued. The same sbatch command continues "
    assert last.startswith(f"{number}: {told}the run.\nLog: checkpoints/cancelled/")
    number, before = submit(cluster, "cancelled"), number
    cluster.wait(number, "COMPLETED", LONG)
    assert cluster.job(before)["JobState"] == "CANCELLED"
    assert cluster.job(before)["Restarts"] == "0"
    cluster.checkout.same("cancelled", EPOCHS)


def test_a_failing_script_is_not_requeued(cluster: Cluster) -> None:
    number = submit(cluster, "failing", epochs=-1)
    cluster.wait(number, "FAILED", LONG)
    last = last_words(cluster, "failing")
    assert last.startswith(f"{number}: failed with exit status 1, not requeued.\n")
    job = cluster.job(number)
    assert (job["ExitCode"], job["Restarts"]) == ("1:0", "0")


def test_two_jobs_share_a_node(cluster: Cluster) -> None:
    names = ("left", "right")
    numbers = [submit(cluster, name, f"--nodelist={NODES[0]}") for name in names]
    for number in numbers:
        cluster.wait(number, "RUNNING")
    wait_for(lambda: all(cluster.checkout.steps(name) > 10 for name in names), LONG)
    assert {cluster.job(number)["JobState"] for number in numbers} == {"RUNNING"}
    for number, name in zip(numbers, names, strict=True):
        cluster.wait(number, "COMPLETED", LONG)
        cluster.checkout.same(name, EPOCHS)


def test_two_nodes(cluster: Cluster) -> None:
    number = started(cluster, "nodes", "--nodes=2", epochs=100)
    assert cluster.job(number)["NodeList"] == "127.0.0.[1-2]"
    assert "8 global, 4 a rank on 2 processes" in cluster.checkout.log("nodes")
    cluster("scontrol", "requeue", number)
    check_requeued(cluster, number, "nodes")
    cluster.checkout.same("nodes", 100, processes=2)
