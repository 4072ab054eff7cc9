"""``scripts/slurm.sh`` on a real Slurm: ``scripts/soak.sh cluster``.

What a user is told about it is in docs/clusters.md.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import datetime, timedelta

import pytest

from tests.scripts.cluster import NODES, Cluster
from tests.scripts.pueue import wait_for
from tests.scripts.soaking import Checkout, training

EPOCHS = 300
LONG = 600  # seconds, on a machine with other work


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
