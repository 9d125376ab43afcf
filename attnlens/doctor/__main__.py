"""`python -m attnlens.doctor`: the findings as plain lines, for where what a command line needs is broken itself."""

from __future__ import annotations

import sys

from attnlens.doctor._examination import examine


def main() -> int:
    """Print each finding; 1 where something fails, else 0."""
    failed = False
    for one in examine():
        failed = failed or one.state == "fails"
        advice = f"\n       -> {one.advice}" if one.advice else ""
        sys.stdout.write(f"{one.state:5}  {one.area}: {one.name}: {one.seen}{advice}\n")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
