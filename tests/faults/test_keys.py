"""Interrupts that tests make come through, whatever Python does at that moment."""

from __future__ import annotations

import gc
import time

import pytest

from tests.faults.keys import pressing


def test_one_that_comes_while_garbage_is_collected_comes_again():
    """Python only prints what a callback of gc raises."""
    pressed = []

    def collecting(phase, info):
        if not pressed:
            pressed.append(phase)
            press(0.001)
            end = time.monotonic() + 0.05
            while time.monotonic() < end:
                pass

    gc.collect()  # what is left by then has finalizers, in which Python does the same
    with pressing() as press:
        gc.callbacks.append(collecting)
        try:
            with pytest.raises(KeyboardInterrupt):
                gc.collect()
                time.sleep(60)
        finally:
            gc.callbacks.remove(collecting)
    assert pressed
