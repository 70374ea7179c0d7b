"""``python -m tests.faults [campaigns] [--scale full|quick] [--first] [--json]``: the counts as a table.

Ends with 1 if anything was wrong; every failure is printed with what is needed to see it again.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

from tests.faults import (
    batching,
    corruption,
    disk,
    fork,
    interrupts,
    kills,
    mutants,
    powerloss,
    races,
    reading,
    syscalls,
)
from tests.faults.report import Result, table

#: how each campaign is run, by scale; `mutant` is what one fault in the code must not survive
SCALES: dict[str, dict[str, dict[str, Any]]] = {
    "full": {
        "kills": {"kills": 600},
        "powerloss": {"images": 100_000, "kills": 24},
        "zarr": {"images": 20_000, "kills": 8},
        "syscalls": {"per_step": None},
        "corruption": {"count": 5_000},
        "races": {"races": 500},
        "disk": {"levels": 40},
        "fork": {"rounds": 10},
        "interrupts": {"every": 1},
        "reading": {"every": 1},
        "batching": {"every": 1},
        "mutants": {"scale": "full"},
    },
    "quick": {
        "kills": {"kills": 6},
        "powerloss": {"images": 600, "kills": 1},
        "zarr": {"images": 300, "kills": 0},
        "syscalls": {"per_step": 4},
        "corruption": {"count": 200},
        "races": {"races": 8},
        "disk": {"levels": 2},
        "fork": {"rounds": 1},
        "interrupts": {"every": 307, "operations": 15},
        "reading": {"every": 1601},
        "batching": {"every": 1601},
        "mutants": {"scale": "quick"},
    },
    "mutant": {
        "kills": {"kills": 40},
        "powerloss": {"images": 4_000, "kills": 4},
        "zarr": {"images": 4_000, "kills": 2},
        "syscalls": {"per_step": 20},
        "corruption": {"count": 400},
        "races": {"races": 60},
        "disk": {"levels": 4},
        "fork": {"rounds": 1},
        "interrupts": {"every": 1},
    },
}
CAMPAIGNS: dict[str, Callable[..., Result]] = {
    "kills": kills.run,
    "powerloss": powerloss.run,
    "zarr": partial(powerloss.run, zarr=True),
    "syscalls": syscalls.run,
    "corruption": corruption.run,
    "races": races.run,
    "disk": disk.run,
    "fork": fork.run,
    "interrupts": interrupts.run,
    "reading": reading.run,
    "batching": batching.run,
    "mutants": mutants.run,
}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("campaigns", nargs="*", default=list(CAMPAIGNS), help=f"of {', '.join(CAMPAIGNS)}; default all")
    parser.add_argument("--scale", choices=list(SCALES), default="quick")
    parser.add_argument("--only", metavar="OPERATION", help="for powerloss: one operation alone, as 'append'")
    parser.add_argument("--first", action="store_true", help="end each campaign at its first failure")
    parser.add_argument("--json", action="store_true", help="print counts and failures as JSON")
    options = parser.parse_args()
    if unknown := [name for name in options.campaigns if name not in CAMPAIGNS]:
        parser.error(f"no campaign {unknown[0]!r}; there are {', '.join(CAMPAIGNS)}")
    results = []
    for name in options.campaigns:
        print(f"{name} ...", file=sys.stderr, flush=True)
        more: dict[str, Any] = {"first_only": True} if options.first else {}
        more |= {"only": options.only, "kills": 40} if options.only and name in ("powerloss", "zarr") else {}
        results.append(CAMPAIGNS[name](**{**SCALES[options.scale].get(name, {}), **more}))
    if options.json:
        print(json.dumps([{"name": r.name, "seconds": r.seconds, **r.plain()} for r in results]))
    else:
        print(table(results))
        print(f"\n{os.cpu_count()} cores, {sum(r.seconds for r in results):.0f} s")
        for failure in (f for r in results for f in r.failures):
            print(f"\nFAILED {failure}")
    return 0 if all(r.ok for r in results) else 1


if __name__ == "__main__":
    sys.exit(main())
