"""Several nodes: two torchrun agents that meet on the loopback interface."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.runs import metrics, same_records, weights
from tests.test_interruptions import NAMES, WORDS, steps_done, wait_for

ROOT = Path(__file__).resolve().parents[1]
pytestmark = pytest.mark.slow


def start(folder: Path, data: Path, nodes: int, *words: str) -> list[subprocess.Popen]:
    """Pre-training on two processes, by as many agents as there are nodes."""
    folder.mkdir(exist_ok=True)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [
        *(sys.executable, "-m", "torch.distributed.run"),
        *(f"--nnodes={nodes}", f"--nproc_per_node={2 // nodes}"),
        *("--rdzv_backend=c10d", f"--rdzv_endpoint=127.0.0.1:{port}", "--rdzv_id=7"),
        "--local_addr=127.0.0.1",
        *(str(ROOT / "train_crosspoint.py"), "--data_root", str(data), *WORDS),
        *("--num_workers", "0", *words),
    ]
    return [
        subprocess.Popen(
            [*command[:5], f"--rdzv_conf=is_host={int(node == 0)}", *command[5:]],
            cwd=folder,
            env={**os.environ, "CUDA_VISIBLE_DEVICES": "", "GLOO_SOCKET_IFNAME": "lo"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        for node in range(nodes)
    ]


def finish(agents: list[subprocess.Popen]) -> tuple[list[int], str]:
    """Exit codes, and everything that was said."""
    try:
        said = [agent.communicate(timeout=180)[0] for agent in agents]
    finally:
        for agent in agents:
            if agent.poll() is None:
                os.killpg(agent.pid, signal.SIGKILL)
    return [agent.returncode for agent in agents], "".join(said)


def same_weights(one: Path, two: Path) -> None:
    for name in NAMES:
        theirs = weights(two, name)
        assert all(torch.equal(v, theirs[n]) for n, v in weights(one, name).items())


@pytest.fixture(scope="module")
def one_node(tmp_path_factory: pytest.TempPathFactory, synthetic_root: Path) -> Path:
    """The run folder of one agent with two processes."""
    folder = tmp_path_factory.mktemp("one")
    codes, said = finish(start(folder, synthetic_root, 1, "--epochs", "4"))
    assert codes == [0], said
    return folder / "checkpoints" / "run"


def test_two_nodes_compute_what_one_does(
    one_node: Path, tmp_path: Path, synthetic_root: Path
) -> None:
    codes, said = finish(start(tmp_path, synthetic_root, 2, "--epochs", "4"))
    assert codes == [0, 0], said
    assert said.count("8 global, 4 a rank on 2 processes") == 1  # rank 0 alone speaks
    run = tmp_path / "checkpoints" / "run"
    assert len(metrics(run)[0]) == 12
    same_records(one_node, run)
    same_weights(one_node, run)


def test_a_signal_to_the_second_node_stops_both_and_both_resume(
    one_node: Path, tmp_path: Path, synthetic_root: Path
) -> None:
    words = ("--epochs", "4", "--resume")
    agents = start(tmp_path, synthetic_root, 2, *words)
    wait_for(lambda: steps_done(tmp_path) >= 4)
    agents[1].terminate()
    codes, said = finish(agents)
    assert all(codes), said
    assert said.count("SIGTERM: stopped after step") == 1, said
    run = tmp_path / "checkpoints" / "run"
    assert steps_done(tmp_path) < 12
    codes, said = finish(start(tmp_path, synthetic_root, 2, *words))
    assert codes == [0, 0], said
    same_records(one_node, run)
    same_weights(one_node, run)


def test_a_mistake_is_said_once_and_ends_both(
    tmp_path: Path, synthetic_root: Path
) -> None:
    codes, said = finish(start(tmp_path, synthetic_root, 2, "--num_points", "9999"))
    assert all(codes), said
    assert said.count("stores 2048 points") == 1, said
    assert "Timed out" not in said
