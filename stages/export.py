"""Write the trained model as one ONNX file that takes pixels, and prove that it computes what PyTorch computes.

reads   models/classifier.safetensors, data/images.zip, data/annotations.csv, data/origin.json (name and licence of the
        images), metrics/evaluate.json (accuracy); params.yaml: export, compute
writes  models/classifier.onnx, metrics/export.json; models/int8/: the same model in 8 bits if export.int8 is true
run     dvc repro export, or: python -m stages.export
expect  about ten seconds; no disagreement with PyTorch on any test image, or the stage fails and writes nothing

The file: input `images`, (batch, channels, height, width) uint8; outputs `logits` and `probabilities`,
(batch, classes) float32. Scaling and normalisation are inside; class names and the input contract are its metadata.
"""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if not __package__:  # run as `python stages/export.py`
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from stages.lib.runner.errors import StageError
from stages.lib.runner.stage import Run, run_stage

if TYPE_CHECKING:
    from stages.lib.dataset import AnnotatedImages
    from stages.lib.model.model_file import ModelCard

INT8_OFF = "export.int8 is false in params.yaml: there is no model in 8 bits.\n"
INT8_ON = "classifier.int8.onnx is classifier.onnx in 8 bits, calibrated on {:,} training images.\n"


def main(run: Run) -> None:
    """Convert, compare on the whole test split and on extremes, write; the same in 8 bits if asked to."""
    from stages.lib import annotations
    from stages.lib.dataset import load_splits
    from stages.lib.export import onnx_file, onnx_proof, onnx_session
    from stages.lib.model import compute, model_file

    params, threads = run.param("export"), run.param("compute").threads
    compute.prepare(run.param("compute"))
    model_path = run.dep("models/classifier.safetensors")
    model, card = model_file.load(model_path)
    (test,) = load_splits(run.dep("data/annotations.csv"), run.dep("data/images.zip"), "test")
    card.check_fits(model_path, test)
    rows = annotations.read(run.dep("data/annotations.csv"))
    evaluated_accuracy = read_accuracy(run.dep("metrics/evaluate.json"))

    run.say(f"converting {card.architecture} to ONNX, then comparing it with PyTorch on {len(test):,} images")
    proto = onnx_file.convert(model, card, params.opset)
    metadata = describe(run, card, test, {split: int(n) for split, n in rows["split"].value_counts().items()})
    metadata |= {"accuracy": evaluated_accuracy, "temperature": card.temperature}
    onnx_file.describe(proto, metadata)
    path = run.out("models/classifier.onnx")
    onnx_file.write(path, proto)

    onnx_proof.check_form(path, card, params.opset)
    session = onnx_session.session(path, threads)
    compare = onnx_proof.Comparison(model, card, session, params.batch_size)
    answers = compare(test.everything())
    onnx_proof.check_answers(answers, card.temperature, params.tolerance, test.names.__getitem__)
    of_extremes = onnx_proof.check_extremes(compare, card, params.tolerance)
    accuracy = onnx_proof.accuracy(answers.logits, test)
    if accuracy != evaluated_accuracy:
        raise StageError(
            f"the file's accuracy on the test split is {accuracy}, but evaluate's (metrics/evaluate.json) is "
            f"{evaluated_accuracy}; with compute.device: cpu both run on the same arithmetic"
        )

    def millionths(difference: float) -> float:
        """`dvc metrics show` rounds to five decimals, where every good figure would be 0.0."""
        return round(difference * 1e6, 3)

    metrics = {
        "accuracy": accuracy,
        "bytes": path.stat().st_size,
        "disagreeing_predictions": len(answers.disagreeing),
        "largest_difference_millionths": {
            "logits_of_extremes": millionths(of_extremes),
            "logits_of_test_images": millionths(answers.difference),
            "probabilities_of_test_images": millionths(answers.probability_difference(card.temperature)),
        },
        "rows": len(test),
    }
    int8 = write_int8(run, path, card, test, rows, metadata)
    run.write_json("metrics/export.json", metrics | ({"int8": int8} if int8 else {}))
    difference = max(answers.difference, of_extremes)
    run.say(f"wrote models/classifier.onnx: {metrics['bytes']:,} bytes, largest difference to PyTorch {difference:.1e}")
    if int8:
        run.say(f"wrote models/int8/classifier.int8.onnx: {int8['bytes']:,} bytes, accuracy {int8['accuracy']:.2%}")


def read_accuracy(path: Path) -> float:
    """On the test split, from evaluate's metrics.

    Raises:
        StageError: it is not there.
    """
    import json

    try:
        return float(json.loads(path.read_text(encoding="utf-8"))["accuracy"])
    except (ValueError, KeyError, TypeError):
        raise StageError(f"{path}: has no accuracy; `dvc repro evaluate` writes it") from None


def describe(run: Run, card: "ModelCard", test: "AnnotatedImages", images_by_split: dict[Any, int]) -> dict[str, Any]:
    """The metadata: how to use the file, and what it was made from."""
    import hashlib

    from stages.lib.export import background, onnx_file, origin

    weights = run.dep("models/classifier.safetensors")
    return {
        **onnx_file.contract(card),
        "architecture": card.architecture,
        "background": background.kind(test.everything().numpy()),
        "training_data": {**origin.read(run.dep("data/origin.json")), "images": images_by_split},
        "weights_sha256": hashlib.sha256(weights.read_bytes()).hexdigest(),
    }


def write_int8(
    run: Run, source: Path, card: "ModelCard", test: "AnnotatedImages", rows: Any, metadata: dict[str, Any]
) -> dict[str, float]:
    """Write the model in 8 bits, or a note that it is off, and return its metrics; none if it is off.

    The folder is an out of the stage either way, so that DVC itself removes the file when the option is switched off,
    even if it takes the stage from its run cache.

    Raises:
        StageError: 8 bits cost more accuracy than ``export.int8_max_drop``.
    """
    folder, params = run.out("models/int8"), run.param("export")
    folder.mkdir()
    if not params.int8:
        (folder / "README.txt").write_text(INT8_OFF, encoding="utf-8")
        return {}

    from stages.lib.dataset import AnnotatedImages
    from stages.lib.export import onnx_file, onnx_int8, onnx_proof, onnx_session

    training = rows[rows["split"] == "train"]
    drawn = training.sample(min(params.int8_images, len(training)), random_state=params.int8_seed)
    (folder / "README.txt").write_text(INT8_ON.format(len(drawn)), encoding="utf-8")
    run.say(f"quantising to 8 bits, calibrated on {len(drawn):,} training images")
    path = folder / "classifier.int8.onnx"
    proto = onnx_int8.quantise(source, path, AnnotatedImages(drawn, run.dep("data/images.zip")).everything().numpy())
    session = onnx_session.session(path, run.param("compute").threads)
    accuracy = onnx_proof.accuracy(onnx_proof.run(session, test.everything().numpy(), params.batch_size)[0], test)
    drop = round(metadata["accuracy"] - accuracy, 6)
    if drop > params.int8_max_drop:
        raise StageError(
            f"8 bits cost {drop} of accuracy ({accuracy} against {metadata['accuracy']}), more than "
            f"export.int8_max_drop {params.int8_max_drop}; set export.int8: false, or allow more"
        )
    onnx_file.describe(
        proto, metadata | {"accuracy": accuracy, "quantised": "int8 weights by channel, uint8 activations"}
    )
    onnx_file.write(path, proto)
    onnx_proof.check_form(path, card, params.opset)
    return {"accuracy": accuracy, "accuracy_drop": drop, "bytes": path.stat().st_size}


if __name__ == "__main__":
    sys.exit(run_stage("export", main, __doc__))
