"""What help and completion cost, beside importing what they stand on, in interleaved rounds.

Each command is a process of its own, so the times hold Python's start too. CPU time is the one to
compare on a busy machine; ratios are paired by round.

    python -m benchmarks.cli --rounds 21
"""

import argparse
import os
import resource
import statistics
import subprocess
import sys
import time

PEER = "import typer, pydantic"
HELLO = (
    "import typer\n"
    "app = typer.Typer()\n"
    "@app.command()\n"
    "def one(): ...\n"
    "@app.command()\n"
    "def two(): ...\n"
    "app(['--help'])\n"
)
COMMANDS = {
    PEER: ["-c", PEER],
    "a Typer app of two commands --help": ["-c", HELLO],
    "orchestrator --help": ["-m", "orchestrator", "--help"],
    "orchestrator train --help": ["-m", "orchestrator", "train", "--help"],
    "completion of --backbone": ["-m", "orchestrator"],
}
QUESTION = {
    "_ORCHESTRATOR_COMPLETE": "complete_bash",
    "COMP_WORDS": "orchestrator train --backbone ",
    "COMP_CWORD": "3",
}


def run(name: str) -> tuple[float, float]:
    """Returns the wall and CPU seconds of one process."""
    environment = os.environ | (QUESTION if name.startswith("completion") else {})
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    command = [sys.executable, *COMMANDS[name]]
    subprocess.run(command, stdout=subprocess.DEVNULL, check=True, env=environment)
    wall, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    """Prints medians, and ratios to the imports alone."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    for name in COMMANDS:
        run(name)  # compiles, and fills the disk's cache
    rounds = [{name: run(name) for name in COMMANDS} for _ in range(options.rounds)]
    print(
        f"{'median of ' + str(options.rounds):<38} {'wall, s':>8} {'CPU, s':>8} {'CPU ratio':>10}"
    )
    for name in COMMANDS:
        wall, cpu = (statistics.median(row[name][part] for row in rounds) for part in (0, 1))
        ratio = statistics.median(row[name][1] / row[PEER][1] for row in rounds)
        print(f"{name:<38} {wall:>8.3f} {cpu:>8.3f} {ratio:>10.2f}")


if __name__ == "__main__":
    main()
