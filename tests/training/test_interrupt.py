from __future__ import annotations

import os
import signal
import threading
import time

import pytest

from xception.training.interrupt import Interruption


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_asks_and_the_handlers_come_back(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with Interruption() as interruption:
        assert not interruption.wanted
        os.kill(os.getpid(), number)
        assert interruption.wanted
        assert signal.getsignal(number) is before
    assert signal.getsignal(number) is before


def test_the_second_ctrl_c_interrupts() -> None:
    """Another thread may take a signal in: then it reaches Python a moment later."""
    # A shell starts what runs in the background with Ctrl-C ignored.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt), Interruption() as interruption:
            os.kill(os.getpid(), signal.SIGINT)
            while not interruption.wanted:
                time.sleep(0.001)
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(10)
    finally:
        signal.signal(signal.SIGINT, before)


def test_outside_the_main_thread_nothing_changes() -> None:
    seen: list[bool] = []

    def run() -> None:
        with Interruption() as interruption:
            seen.append(interruption.wanted)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert seen == [False]
