"""Run every benchmark in turn, each in a process of its own: ``python -m benchmarks [name ...]``."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ON_REQUEST = ("baseline", "bounds", "db_handler", "evidence", "soak")
"""Run only when they are named: they take minutes, or a database of the caller's."""


def main() -> int:
    here = Path(__file__).parent
    known = sorted(
        path.stem for path in here.glob("*.py") if path.stem not in ("__init__", "__main__", "harness")
    )
    chosen = sys.argv[1:] or [name for name in known if name not in ON_REQUEST]
    if unknown := [name for name in chosen if name not in known]:
        print(f"no such benchmark: {', '.join(unknown)}; there are: {', '.join(known)}", file=sys.stderr)
        return 2
    return max(subprocess.call([sys.executable, "-m", f"benchmarks.{name}"]) for name in chosen)


if __name__ == "__main__":
    sys.exit(main())
