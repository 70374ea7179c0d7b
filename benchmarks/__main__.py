"""``python -m benchmarks [names] [--size laptop|large|tiny|rows] [--repeats n] [--json out] [--markdown out]``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

# entered in the list by being imported
from benchmarks import (  # noqa: F401
    batches,
    bucketing,
    checking,
    cold,
    conversion,
    cuts,
    drawn,
    memory,
    ragged,
    ragged_cuts,
    reading,
    skipping,
    zarr,
)
from benchmarks.harness import BENCHMARKS, markdown, run_all, text, to_json


def size(value: str) -> str:
    if value in ("tiny", "laptop", "large") or (value.isdigit() and int(value) > 0):
        return value
    raise argparse.ArgumentTypeError(f"tiny, laptop, large or a number of rows, got {value!r}")


def main(argv: list[str] | None = None) -> None:
    listing = "\n".join(f"  {b.name:24}{b.title}" for b in BENCHMARKS.values())
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description=f"Timings as ratios to a limit and to peers.\n\n{listing}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("names", nargs="*", metavar="name", help="which ones (default: all)")
    parser.add_argument("--size", type=size, default="laptop", help="tiny, laptop (default), large, or rows")
    parser.add_argument("--repeats", type=int, default=7, help="runs of each competitor at least (default: 7)")
    parser.add_argument("--data", type=Path, help="folder for the data, kept (default: a temporary one)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every time here")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the table here")
    options = parser.parse_args(argv)
    unknown = set(options.names) - set(BENCHMARKS)
    if unknown:
        parser.error(f"no benchmark {', '.join(sorted(unknown))}; there are {', '.join(BENCHMARKS)}")
    if options.repeats < 1:
        parser.error("--repeats is 1 or more")

    results = []
    for result in run_all(options.names or list(BENCHMARKS), options.size, options.repeats, options.data):
        results.append(result)
        sys.stdout.write(text(result) + "\n")
        sys.stdout.flush()
    for path, content in ((options.json, to_json), (options.markdown, markdown)):
        if path is not None:
            path.write_text(content(results), encoding="utf-8")


if __name__ == "__main__":
    main()
