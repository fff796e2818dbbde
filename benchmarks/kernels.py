"""What a training step of the committed recipe costs with the kernels and with PyTorch's layers, here.

    python benchmarks/kernels.py [--threads 2] [--steps 40] [--rounds 5]

Each mode is a process of its own, since libraries read their variables once; the modes take turns. Prints the median
milliseconds of a step of 256 images, and the ratio to PyTorch pinned to AVX2.
"""

import argparse
import os
import statistics
import subprocess
import sys

from classifier.kernels import library

from compute_modes import measure

# Whether the run is portable, and which kernels it uses.
MODES = {
    "PyTorch, pinned to AVX2": (True, "none"),
    "PyTorch, all instructions (not portable)": (False, "none"),
    **{f"kernels, {name}": (True, name) for name in library.instruction_sets()},
}


def main() -> None:
    """Run all modes in turns and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--steps", type=int, default=40, help="of each process (default: 40)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", help=argparse.SUPPRESS)  # the process of one mode
    arguments = parser.parse_args()
    if arguments.only:
        print(measure(MODES[arguments.only][0], "fp32", arguments.threads, arguments.steps))
        if library.load()[0] != os.environ[library.VARIABLE]:
            sys.exit(f"{arguments.only}: not compiled, or not for this processor")
        return
    words = ["--threads", str(arguments.threads), "--steps", str(arguments.steps)]
    found: dict[str, list[float]] = {name: [] for name in MODES}
    for _ in range(arguments.rounds):
        for name, (_, kernels) in MODES.items():
            environment = {**os.environ, library.VARIABLE: kernels}
            command = [sys.executable, __file__, *words, "--only", name]
            done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=False)
            found[name] += [] if done.returncode else [float(done.stdout)]
    base = statistics.median(next(iter(found.values())))
    for name, values in found.items():
        if values:
            median = statistics.median(values)
            print(f"{name:<42} {median:8.1f} ms  ({min(values):.1f} to {max(values):.1f})  {median / base:6.2f}")


if __name__ == "__main__":
    main()
