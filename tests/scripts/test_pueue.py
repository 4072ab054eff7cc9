"""The launchers and pueue's own daemon, with a stand-in for torchrun.

The long form, with real trainings, is tests/scripts/soak_queue.py.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.scripts.conftest import Shell, needs_pueue
from tests.scripts.pueue import Pueue, wait_for

pytestmark = needs_pueue


@pytest.fixture
def pueue(shell: Shell) -> Iterator[Pueue]:
    # Says its words, waits while there is a file `hold`, fails for the run in $FAIL.
    body = f"""echo "run: $*"
while [ -e {shell.folder}/hold ]; do sleep 0.05; done
case " $* " in *" ${{FAIL:--}} "*) exit 3 ;; esac"""
    shell.program("torchrun", body)
    made = Pueue(shell.variables)
    shell.variables = {**made.variables, "QUEUE": "pueue", "NGPU": "0"}
    yield made
    made.close()


def test_a_group_of_two_slots_runs_two_at_once_and_keeps_the_output(shell, pueue):
    hold = shell.folder / "hold"
    hold.touch()
    names = ("ft-mn.sh", "ft-so.sh", "ft-partseg.sh")
    numbers = [shell.run(x, PUEUE_GROUP="gpu").stdout.strip() for x in names]
    wait_for(lambda: len(shell.calls("torchrun")) == 2, 20)
    assert [*pueue.states().values()] == ["Running", "Running", "Queued"]
    hold.unlink()
    pueue.wait()
    assert {*pueue.states().values()} == {"Success"}
    log = pueue("log", "--full", numbers[2])
    assert "run: --standalone --nproc_per_node=1 train_partseg.py --exp_name" in log


def test_a_failed_task_stops_those_that_need_it(shell: Shell, pueue: Pueue) -> None:
    failing = {"FAIL": "broken_pt-partseg", "PUEUE_GROUP": "gpu"}
    done = shell.run("pipeline.sh", "--name", "broken", **failing)
    assert done.returncode == 0, done.stderr
    pueue.wait()
    ended = {name.removeprefix("broken_"): x for name, x in pueue.states().items()}
    stopped = {"ft-partseg": "DependencyFailed", "table": "DependencyFailed"}
    succeeded = dict.fromkeys(("pt-cls", "svm", "fewshot", "ft-mn", "ft-so"), "Success")
    assert ended == {**succeeded, "pt-partseg": "Failed", **stopped}


def test_a_task_that_pueue_refuses_says_what_to_do(shell: Shell, pueue: Pueue) -> None:
    done = shell.run("pt-cls.sh", PUEUE_GROUP="none")
    assert done.returncode == 2 and done.stdout == ""
    assert "Group none" in done.stderr
    assert "a group is made by 'pueue group add NAME'" in done.stderr
    pueue.process.kill()
    pueue.process.wait()
    for name in ("pt-cls.sh", "pipeline.sh"):
        done = shell.run(name)
        assert done.returncode == 2 and done.stdout == ""
        assert done.stderr.endswith("a group is made by 'pueue group add NAME'\n")
