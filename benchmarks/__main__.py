"""Runs every benchmark with its default settings: `python -m benchmarks [NAME ...]`."""

import subprocess
import sys
from pathlib import Path


def main() -> int:
    """Runs the named benchmarks, or all; returns the number that failed."""
    folder = Path(__file__).parent
    names = sys.argv[1:] or sorted(p.stem for p in folder.glob("[a-z]*.py"))
    failed = 0
    for name in names:
        if not (folder / f"{name}.py").is_file():
            known = ", ".join(sorted(p.stem for p in folder.glob("[a-z]*.py")))
            print(f"no benchmark {name}; there are {known}")
            return 2
        print(f"== {name}", flush=True)
        done = subprocess.run([sys.executable, "-m", f"benchmarks.{name}"], cwd=folder.parent)
        failed += done.returncode != 0
    return failed


if __name__ == "__main__":
    sys.exit(main())
