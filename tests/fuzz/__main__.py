"""``python -m tests.fuzz [stores | texts] [--examples 100000] [--seed 0] [--keep FOLDER]``: a long campaign.

Changed stores, or texts that may be cuts. Every example is told by its seed alone, so ``--seed 4711 --examples 1`` does
one again.
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
from tests.fuzz.texts import check_text, random_text


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.fuzz", description="Changed stores and texts, by the thousand."
    )
    parser.add_argument("what", nargs="?", choices=("stores", "texts"), default="stores")
    parser.add_argument("--examples", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0, help="of the first example; the next has the next")
    parser.add_argument("--keep", type=Path, help="where stores that show something wrong are kept")
    options = parser.parse_args()
    return texts(options) if options.what == "texts" else stores(options)


def texts(options: argparse.Namespace) -> int:
    """Texts that may be cuts."""
    outcomes: Counter[str] = Counter()
    n_wrong, slowest = 0, (0.0, 0)
    began = time.process_time()
    for seed in range(options.seed, options.seed + options.examples):
        rng = Random(seed)
        text = random_text(rng)
        before = time.thread_time()
        outcome, problem = check_text(text, rng)
        slowest = max(slowest, (time.thread_time() - before, seed))
        outcomes[outcome] += 1
        if problem:
            n_wrong += 1
            if n_wrong <= 20:
                sys.stdout.write(f"seed {seed}: {problem}\n")
                sys.stdout.flush()
    seconds = time.process_time() - began
    sys.stdout.write(f"{options.examples} texts, {n_wrong} wrong, in {seconds:.0f} s of the processor\n")
    sys.stdout.write(f"the slowest took {slowest[0]:.2f} s: seed {slowest[1]}\n")
    for what, n in outcomes.most_common():
        sys.stdout.write(f"  {n} x {what}\n")
    return 1 if n_wrong else 0


def stores(options: argparse.Namespace) -> int:
    """Changed stores."""
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
