"""The contract of backends with few examples, for those of which each call takes a while."""

from __future__ import annotations

import importlib.util

from hypothesis import settings

from mmdask.testing import StoreContract, contract

__all__ = ["with_few_examples"]


def with_few_examples() -> type[StoreContract]:
    """The contract as it is where it is imported while a profile of few examples is loaded."""
    before = settings.get_current_profile_name()
    settings.register_profile("few", max_examples=10)
    settings.load_profile("few")
    try:
        found = importlib.util.find_spec("mmdask.testing.contract")
        module = importlib.util.module_from_spec(found)
        found.loader.exec_module(module)
        module._read_elsewhere = contract._read_elsewhere  # which another process imports
    finally:
        settings.load_profile(before)
    return module.StoreContract
