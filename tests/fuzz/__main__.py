"""``python -m tests.fuzz [--examples 100000] [--seed 0] [--keep FOLDER]``: a long campaign of changed stores.

Every example is told by its seed alone, so ``--seed 4711 --examples 1`` does one again.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from random import Random

from tests.fuzz.mutations import Fuzzer, check


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description="Changed stores, by the thousand.")
    parser.add_argument("--examples", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0, help="of the first example; the next has the next")
    parser.add_argument("--keep", type=Path, help="where stores that show something wrong are kept")
    options = parser.parse_args()
    wrong: Counter[str] = Counter()
    with tempfile.TemporaryDirectory(
        prefix="mmdask-fuzz-", dir="/dev/shm" if Path("/dev/shm").is_dir() else None
    ) as folder:
        fuzzer = Fuzzer(Path(folder))
        began = time.monotonic()
        for seed in range(options.seed, options.seed + options.examples):
            path, visible = fuzzer.store(Random(seed))
            problem = check(path, visible)
            if problem:
                wrong[problem.splitlines()[-1][:100]] += 1
                if wrong[problem.splitlines()[-1][:100]] <= 3:
                    sys.stdout.write(f"seed {seed}: {problem}\n")
                    sys.stdout.flush()
                if options.keep is not None:
                    shutil.copytree(path, options.keep / str(seed))
            shutil.rmtree(path)
    seconds = time.monotonic() - began
    sys.stdout.write(f"{options.examples} examples, {sum(wrong.values())} wrong, in {seconds:.0f} s\n")
    for what, n in wrong.most_common():
        sys.stdout.write(f"  {n} x {what}\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
