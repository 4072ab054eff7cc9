"""Signals: noted inside, acted on where the run says so, and handed back afterwards."""

import os
import signal
import threading

import pytest

from utils.run import signals


def send(number: int) -> None:
    os.kill(os.getpid(), number)


@pytest.mark.parametrize(("local_rank", "messages"), [("0", 2), ("1", 0)])
def test_a_signal_is_noted_and_raised_where_it_is_looked_for(
    local_rank, messages, monkeypatch, capfd
) -> None:
    monkeypatch.setenv("LOCAL_RANK", local_rank)
    before = [signal.getsignal(number) for number in signals.SIGNALS]
    with signals.listening():
        signals.check("nowhere")
        assert signals.received() == 0
        send(signal.SIGTERM)
        assert signals.received() == signal.SIGTERM
        with pytest.raises(signals.Interrupted) as ended:
            signals.check("in the fit")
        assert ended.value.number == signal.SIGTERM
        assert str(ended.value) == "SIGTERM: stopped in the fit"
        send(signal.SIGTERM)  # queues send it again; the step is still finished
    output = capfd.readouterr().err  # one rank a node speaks
    assert output.count("stopping after this step") == messages
    assert bool(output) == bool(messages)
    assert signals.received() == 0  # the next run of this process is not stopped
    assert [signal.getsignal(number) for number in signals.SIGNALS] == before


@pytest.mark.parametrize("first", signals.SIGNALS)
def test_ctrl_c_once_more_ends_the_run_at_once(first: int) -> None:
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt), signals.listening():
        send(first)
        send(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before
    assert signals.received() == 0


def test_a_run_in_another_thread_leaves_the_signals_alone() -> None:
    # A notebook's server may run its cells in one; only the main thread may listen.
    actual = []

    def run() -> None:
        before = signal.getsignal(signal.SIGTERM)
        with signals.listening():
            actual.append(signal.getsignal(signal.SIGTERM) is before)
            signals.check("nowhere")

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert actual == [True]
