"""Trainings in a queue of pueue's own daemon: ``scripts/soak.sh queue``.

What a user is told about it is in docs/clusters.md.
"""

from collections.abc import Iterator

import pytest

from tests.scripts.pueue import Pueue, wait_for
from tests.scripts.soaking import Checkout, training
from tests.scripts.test_pipeline import STUDY

EPOCHS = 300
LONG = 300  # seconds, on a machine with other work


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    return Checkout(tmp_path_factory.mktemp("checkout"))


@pytest.fixture
def pueue(checkout: Checkout) -> Iterator[Pueue]:
    made = Pueue({**checkout.variables, "QUEUE": "pueue", "NGPU": "0"})
    checkout.variables = made.variables
    yield made
    made.close()


@pytest.fixture
def enqueue(checkout: Checkout, pueue: Pueue):
    def enqueue(name: str, epochs: int = EPOCHS, **variables: str) -> str:
        """Enqueue a training, wait until it has done some steps; returns its number."""
        words = [*training(epochs), "--exp_name", name, "--resume"]
        number = checkout.start("scripts/ft-mn.sh", *words, **variables).strip()
        wait_for(lambda: checkout.steps(name) > 100, LONG)
        assert pueue.states() == {"ft-mn": "Running"}
        return number

    return enqueue


def stopped(checkout: Checkout, name: str) -> bool:
    """Whether the run has ended by a signal, with a checkpoint."""
    last = checkout.log(name).splitlines()[-1]
    return "ended by Interrupted: SIGTERM: stopped" in last


def test_the_study_to_its_table_although_a_run_fails_at_first(checkout, pueue) -> None:
    words = ["--smoke", "--name", "queued", "--num_points", "64", "--k", "5"]
    words += ["--emb_dims", "16"]
    obstacle = checkout.run("queued_pt-partseg")
    obstacle.parent.mkdir()
    obstacle.touch()
    checkout.start("scripts/pipeline.sh", *words)
    pueue.wait()
    states = dict.fromkeys((f"queued_{run}" for run in STUDY), "Success")
    stopped = dict.fromkeys(("queued_ft-partseg", "queued_table"), "DependencyFailed")
    assert pueue.states() == {**states, "queued_pt-partseg": "Failed", **stopped}
    failed = next(k for k, x in pueue.tasks().items() if x.state == "Failed")
    assert "cannot be written: " in pueue("log", "--full", failed)

    obstacle.unlink()
    output = checkout.start("scripts/pipeline.sh", *words)
    pueue.wait()
    assert pueue.states() == {**states, "queued_table": "Success"}
    steps = checkout.steps("queued_pt-cls")
    assert steps > 0 and "resuming from its checkpoint" in checkout.log("queued_pt-cls")
    number = output.rstrip().split("pueue log --full ")[1].split()[0]
    table = pueue("log", "--full", number)
    assert table.count(" episodes") == 8 and "not run" not in table
    assert "the differences from published numbers mean nothing" in table


@pytest.mark.parametrize(("processes", "epochs"), [(1, EPOCHS), (2, 100)])
def test_a_killed_task_writes_a_checkpoint_and_continues_when_restarted(
    processes: int, epochs: int, checkout: Checkout, pueue: Pueue, enqueue
) -> None:
    name = f"killed_{processes}"
    number = enqueue(name, epochs, NGPU=str(processes))
    pueue("kill", number)
    pueue.wait()
    assert pueue.states() == {"ft-mn": "Killed"}
    wait_for(lambda: stopped(checkout, name), 60)  # torchrun is killed, its ranks end
    pueue("restart", "--in-place", number)
    pueue.wait()
    assert pueue.states() == {"ft-mn": "Success"}
    assert "resuming from its checkpoint at step" in checkout.log(name)
    checkout.same(name, epochs, processes)


def test_a_pause_stops_torchrun_alone(checkout, pueue, enqueue) -> None:
    number = enqueue("paused")
    pueue("pause", number)
    wait_for(lambda: pueue.states() == {"ft-mn": "Paused"}, 20)
    wait_for(lambda: "done; weights in" in checkout.log("paused"), LONG)
    assert pueue.states() == {"ft-mn": "Paused"}
    pueue("start", number)
    pueue.wait()
    assert pueue.states() == {"ft-mn": "Success"}
    checkout.same("paused", EPOCHS)


def test_a_training_survives_a_daemon_that_is_killed(checkout, pueue, enqueue) -> None:
    number = enqueue("survivor", 2 * EPOCHS)
    evaluation = ["--dataset", "modelnet40", "--C", "1", "--data_root", "data"]
    weights = "checkpoints/survivor/models/best_model.pth"
    evaluation += ["--model_path", weights, "--wandb", "disabled"]
    checkout.start("scripts/eval-svm.sh", *evaluation, PUEUE_AFTER=number)
    pueue.process.kill()
    pueue.process.wait()
    pueue.start()
    assert pueue.states() == {"ft-mn": "Killed", "eval-svm": "Queued"}
    assert "done; weights in" not in checkout.log("survivor")
    # The training still has its folder.
    pueue("restart", "--in-place", number)
    pueue("start")
    pueue.wait()
    assert pueue.states() == {"ft-mn": "Failed", "eval-svm": "DependencyFailed"}
    assert "is in use by process" in pueue("log", "--full", number)
    wait_for(lambda: "done; weights in" in checkout.log("survivor"), LONG)
    pueue("restart", "--in-place", *pueue.tasks())
    pueue.wait()
    assert pueue.states() == {"ft-mn": "Success", "eval-svm": "Success"}
    checkout.same("survivor", 2 * EPOCHS)


def test_a_daemon_that_is_ended_stops_the_training_with_a_checkpoint(
    checkout: Checkout, pueue: Pueue, enqueue
) -> None:
    number = enqueue("stopped")
    pueue.process.terminate()  # systemctl stop, a shutdown of the machine
    pueue.process.wait(60)
    wait_for(lambda: stopped(checkout, "stopped"), 60)
    pueue.start()
    assert pueue.states() == {"ft-mn": "Killed"}
    pueue("restart", "--in-place", number)
    pueue("start")
    pueue.wait()
    assert "resuming from its checkpoint at step" in checkout.log("stopped")
    checkout.same("stopped", EPOCHS)
