"""Signals wait for a safe place."""

from __future__ import annotations

import os
import signal
import threading

import pytest

from qslm_opt.search.interrupts import Interrupts


def press(number: int = signal.SIGINT) -> None:
    os.kill(os.getpid(), number)
    signal.getsignal(number)  # a bytecode boundary, where Python runs handlers


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_inside_exposed_code_a_signal_raises_at_once(number):
    reached = []

    def work():
        with interrupts.exposed():
            press(number)
            reached.append("after")

    with Interrupts() as interrupts, pytest.raises(KeyboardInterrupt):
        work()
    assert reached == []


def test_elsewhere_it_waits_for_the_next_exposed_block():
    reached = []
    with Interrupts() as interrupts:
        press()
        reached.append("between")
        with pytest.raises(KeyboardInterrupt), interrupts.exposed():
            reached.append("exposed")
    assert reached == ["between"]


def test_a_shield_inside_exposed_code_is_left_before_the_signal_raises():
    reached = []

    def work():
        with interrupts.exposed():
            with interrupts.shielded():
                press()
                reached.append("written")
            reached.append("after")

    with Interrupts() as interrupts, pytest.raises(KeyboardInterrupt):
        work()
    assert reached == ["written"]


def test_one_signal_raises_once():
    with Interrupts() as interrupts:
        press()
        with pytest.raises(KeyboardInterrupt), interrupts.exposed():
            pass
        with interrupts.exposed():
            pass


def test_the_handlers_are_put_back():
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    with Interrupts():
        assert signal.getsignal(signal.SIGTERM) != before[0]
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before


def test_in_a_thread_the_handlers_are_left_alone():
    seen = []

    def work():
        with Interrupts():
            seen.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [signal.getsignal(signal.SIGTERM)]
