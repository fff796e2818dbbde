"""Stop a real ``dvc repro`` at points drawn at random, run it again, stop it again; in the end compare every byte.

``e2e/test_kills.py`` does it some times, ``benchmarks/soak.py`` as often as it is asked to.
"""

import contextlib
import json
import os
import random
import re
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from classifier import yaml_file
from classifier.runner import files
from classifier.runner.declaration import read_declaration
from tests.project import STAGES, Project, wait_for
from tests.support.processes import processes_in

import pandas as pd

FOLDERS = ("data", "models", "metrics", "scratch")
GROWING = "metrics/train/curves.csv"  # shown while it grows by whole rows: what lies there is the beginning of it
LATEST = "metrics/train.json"  # shown anew at every epoch: what lies there is a row of the curves
SECONDS = 120  # until a stage must have begun, or a process must be gone
DVC_CUT_OFF = re.compile(
    r"dvc\.lock' (validation failed|is invalid)|Unable to read RWLock-file|': 'outs'$", re.MULTILINE
)


def content(path: Path) -> dict[Path, str]:
    """The digest of a file, or of each file of a folder by its place in it."""
    return {Path(name).relative_to(path): digest for name, digest in files.digests([path]).items()}


@dataclass
class Stop:
    """One disturbance: what was sent to whom, where the run was, and what it left."""

    signal: str
    target: str  # group, or dvc alone
    stage: str  # whose command had begun last
    point: str
    recorded: bool  # whether DVC had recorded that stage already: nothing of it was lost
    named: int  # outs of that stage that had their names
    outs: int
    resumed_at: int  # the step at which the run that was stopped here had gone on, if it had

    def __str__(self) -> str:
        what = "recorded" if self.recorded else f"{self.named} of {self.outs} outs named"
        return f"{self.signal:<7} to {self.target:<9} in {self.stage:<8} {self.point:<21} {what}"


class Chaos:
    """A clone of which no stage has run, what it must become, and the disturbances so far.

    Attributes:
        repaired: times that DVC's own file was cut off.
    """

    def __init__(self, project: Project, reference: Project, seed: int):
        self.project, self.reference, self.seed = project, reference, seed
        self.random = random.Random(seed)
        self.stops: list[Stop] = []
        self.repaired = 0
        self.log = project.root.parent / f"{project.root.name}.log"
        self.seconds: dict[str, float] = {}  # from a stage's beginning to its first out
        params = yaml_file.load(project.read("params.yaml").decode())
        self.outs = {stage: read_declaration(stage, params, project.root / "dvc.yaml").outs for stage in STAGES}

    # --- one disturbance ------------------------------------------------------------------------------------------

    def stop(self, stage: str, point: str, signum: int = signal.SIGKILL, alone: bool = False) -> Stop | None:
        """Start ``dvc repro`` and stop it in a stage, or in the one after it if that is recorded already.

        The points: ``publishing`` is at the first named out, ``recording`` somewhat later, while DVC hashes, caches and
        writes dvc.lock, ``epoch`` in the middle of one, ``any time`` before all that.

        Returns:
            None if there is none after it, so that nothing stopped the run.
        """
        process = self._start()
        from_here = re.compile(f"Running stage '({'|'.join(STAGES[STAGES.index(stage) :])})'")
        if not self._await(process, lambda text: bool(from_here.search(text))):
            assert process.returncode == 0, self._so_far()
            return None
        stage = from_here.findall(self.log.read_text())[-1]
        point = self._await_point(process, stage, point)
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid if alone else -process.pid, signum)  # or its group
        process.wait(SECONDS)
        if not alone:
            self._all_are_gone()
        self.stops.append(self._describe(point, signum, alone))
        return self.stops[-1]

    def _await_point(self, process: "subprocess.Popen[bytes]", stage: str, point: str) -> str:
        began = time.monotonic()
        if point in ("publishing", "recording"):
            paths = [str(self.project.root / out) for out in self.outs[stage]]
            while process.poll() is None and not any(map(os.path.exists, paths)):
                time.sleep(0.0002)  # no longer: the outs get their names within a millisecond or two of each other
            self.seconds[stage] = time.monotonic() - began
            if point == "recording":
                time.sleep(self.random.uniform(0, 0.7))
            return point
        if point == "epoch":
            ended = self.random.randint(1, 2)  # epochs in this run, which may have gone on from a state
            self._await(process, lambda text: text.count("train: epoch ") >= ended or f"{stage}: wrote" in text)
            time.sleep(self.random.uniform(0, 0.1))
            return f"after {ended} more epochs"
        delay = self.random.uniform(0, self.seconds.get(stage, 3))
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(delay)
        return f"{delay:.2f} s after start"

    def _describe(self, point: str, signum: int, alone: bool) -> Stop:
        text = self.log.read_text()
        stage = re.findall(r"Running stage '(\w+)'", text)[-1]
        begun = STAGES[: STAGES.index(stage) + 1]  # of the others a clone has the committed metrics
        outs = [] if alone else [out for name in begun for out in self.outs[name]]  # an orphan may be removing them
        there = [out for out in outs if (self.project.root / out).exists()]
        for out in there:
            mine, theirs = self.project.root / out, self.reference.root / out
            begins = out == GROWING and theirs.read_bytes().startswith(mine.read_bytes())
            if out == LATEST:
                rows = pd.read_csv(self.reference.root / GROWING).to_dict("records")
                begins = any(json.loads(mine.read_text()).items() <= row.items() for row in rows)
            assert begins or content(mine) == content(theirs), f"{out} is there and not whole: {self._so_far()}"
        try:
            recorded = stage in yaml_file.load(self.project.read("dvc.lock").decode())["stages"]
        except Exception:
            recorded = False  # not there yet, or cut off: the next start shows whether DVC minds
        resumed = re.search(r"resuming at step (\d+)", text)
        return Stop(
            signal=signal.Signals(signum).name,
            target="dvc alone" if alone else "group",
            stage=stage,
            point=point,
            recorded=recorded,
            named=len({*there} & {*self.outs[stage]}),
            outs=len(self.outs[stage]),
            resumed_at=int(resumed[1]) if resumed else 0,
        )

    def finish(self) -> None:
        """Run to the end and compare with the reference run: dvc.lock, every out, and nothing else left over."""
        process = self._start()
        process.wait(SECONDS)
        assert process.returncode == 0, self._so_far()
        assert self.project.repro() == [], self._so_far()
        for path in ["dvc.lock", *(out for outs in self.outs.values() for out in outs)]:
            mine, theirs = (project.root / path for project in (self.project, self.reference))
            assert content(mine) == content(theirs), f"{path}: {self._so_far()}"
        left = [*self.project.root.glob("scratch/*-*")]
        left += [path for name in FOLDERS for path in (self.project.root / name).rglob(".tmp.*")]
        assert not left, f"{left}: {self._so_far()}"
        self._all_are_gone()

    # --- what it needs --------------------------------------------------------------------------------------------

    def _start(self) -> "subprocess.Popen[bytes]":
        """Type the command; if DVC cannot read its own file any more, mend that as ``make repro`` does, and again."""
        while True:
            with self.log.open("wb") as log:
                process = subprocess.Popen(
                    ["dvc", "repro"], cwd=self.project.root, env=self.project.environment, stdout=log, stderr=log,
                    start_new_session=True,
                )  # fmt: skip
            if self._await(process, lambda text: "Running stage" in text) or process.returncode == 0:
                return process
            assert DVC_CUT_OFF.search(self.log.read_text()), self._so_far()
            assert "repair: " in self.project.run("python", "-m", "tools.repair").stdout, self._so_far()
            self.repaired += 1

    def _await(self, process: "subprocess.Popen[bytes]", said: Callable[[str], bool]) -> bool:
        """Wait until it is said, or the process has ended; whether it was said."""
        wait_for(lambda: said(self.log.read_text()) or process.poll() is not None, SECONDS, 0.005)
        return said(self.log.read_text())

    def _all_are_gone(self) -> None:
        """No process may be left that works in the clone, to write there later."""
        wait_for(lambda: not processes_in(self.project.root), SECONDS)

    def _so_far(self) -> str:
        stops = "\n".join(map(str, self.stops))
        return f"seed {self.seed}; so far:\n{stops}\nthe last run printed:\n{self.log.read_text()}"
