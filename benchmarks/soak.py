"""Soak test: stop a run at random points, repeat the command, stop it again, and compare the final results.

Each cycle takes a fresh clone with a small dataset through all stages of a real `dvc repro`, stops it several times in
every stage at random points (SIGKILL, SIGTERM or SIGINT to the process group, SIGKILL or SIGTERM to dvc alone), and
finally compares dvc.lock and the bytes of every out with those of an uninterrupted run.

Run it from the root of a clone: python benchmarks/soak.py --rounds 100 [--seed 0]
"""

import argparse
import random
import signal
import tempfile
from collections import Counter
from pathlib import Path

from tests.chaos import Chaos, Stop
from tests.project import STAGES, make_project, make_raw

REPOSITORY = Path(__file__).resolve().parents[1]

WAYS = [(signal.SIGKILL, False)] * 5 + [(signal.SIGTERM, False), (signal.SIGINT, False)] * 2
WAYS += [(signal.SIGKILL, True), (signal.SIGTERM, True)]  # no SIGINT: dvc alone ignores it and waits for its stage


def main() -> None:
    """Stop, compare, and print every stop and a summary."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=100, help="minimum number of stops (default: 100)")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(2**32))
    arguments = parser.parse_args()
    print(f"seed {arguments.seed}", flush=True)
    draw = random.Random(arguments.seed)
    stops: list[Stop] = []
    cycles = repaired = 0
    with tempfile.TemporaryDirectory() as folder:
        fresh = make_project(Path(folder) / "fresh", make_raw(Path(folder) / "raw"))
        reference = fresh.copy(Path(folder) / "reference")
        reference.repro()
        while len(stops) < arguments.rounds:
            project = fresh.copy(Path(folder) / f"cycle-{cycles}")
            project.set(runtime__checkpoint_seconds=draw.choice([0, 60]))
            chaos = Chaos(project, reference, draw.randrange(2**32))
            for stage in STAGES:
                for _ in range(draw.randint(2, 4)):
                    points = ["publishing", "recording", "any time", *(["epoch"] * 2 if stage == "train" else [])]
                    signum, alone = draw.choice(WAYS)
                    stop = chaos.stop(stage, draw.choice(points), signum, alone)
                    if stop:
                        print(stop, flush=True)
            chaos.finish()
            stops, cycles, repaired = stops + chaos.stops, cycles + 1, repaired + chaos.repaired
    lost = [stop for stop in stops if not stop.recorded]
    print(f"{len(stops)} stops in {cycles} cycles: each cycle ended with results identical to an uninterrupted run")
    print("interrupted stage: " + ", ".join(f"{name} {n}" for name, n in Counter(s.stage for s in lost).most_common()))
    print(
        "signal: " + ", ".join(f"{way} {n}" for way, n in Counter(f"{s.signal} to {s.target}" for s in stops).items())
    )
    print(f"interrupted between two outs of a stage: {sum(0 < stop.named < stop.outs for stop in lost)}")
    print(f"training resumed from a checkpoint: {sum(stop.resumed_at > 0 for stop in stops)}")
    print(f"dvc.lock or rwlock truncated by a kill, and repaired: {repaired}")


if __name__ == "__main__":
    main()
