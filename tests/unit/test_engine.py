"""Driving the runs of a search."""

import signal
from concurrent.futures import Future

from classifier import portability, yaml_file
from classifier.errors import StageError
from classifier.experiments import decided, engine
from classifier.experiments.halving import Run
from classifier.experiments.stage_process import Answer
from classifier.kernels import library
from classifier.runner.cli import ROOT

import pytest


class SignaledWhenCollected:
    def __del__(self) -> None:
        signal.raise_signal(signal.SIGTERM)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_signal_that_python_drops_stops_the_search_all_the_same() -> None:
    signals = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = [signal.getsignal(signum) for signum in signals]
    ended: list[Run] = []

    def submit(task: Answer) -> "Future[Answer]":
        done: Future[Answer] = Future()
        done.set_result(task)
        return done

    def next_runs() -> list[Run]:
        return [Run(f"trial-{number}", {}, 1) for number in range(3) if number >= len(ended)]

    def search() -> None:
        with engine.stoppable():
            for run, _ in engine.drive(submit, next_runs, lambda run: {"out": run.name}):
                ended.append(run)
                SignaledWhenCollected()

    try:
        with pytest.raises(KeyboardInterrupt):
            search()
    finally:
        for signum, handler in zip(signals, before, strict=True):
            signal.signal(signum, handler)
    assert len(ended) == 1


def test_processor_decides_unless_the_results_are_the_same_everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    def processor(kernels: str = "avx2", unmet: tuple[str, ...] = (), world_size: int = 1) -> str:
        params = yaml_file.load((ROOT / "params.yaml").read_text())
        params["train"]["world_size"] = world_size
        monkeypatch.setattr(library, "load", lambda: (kernels, object()))
        monkeypatch.setattr(portability, "unmet_conditions", lambda: [*unmet])
        return str(decided.beyond_params([], params)["processor"])

    assert processor() == "any"
    assert "any" not in {processor(world_size=2), processor(kernels="none"), processor(unmet=("no AVX2",))}


def test_training_without_the_objective_is_refused() -> None:
    with pytest.raises(StageError, match="trial-1: no val_acc, since there are no validation images"):
        engine.record(Run("trial-1", {}, 1), {"status": 0, "metrics": {"train_acc": 0.5}}, "val_acc")
