"""Write the trained model as one ONNX file that takes pixels, and prove that it computes what PyTorch computes.

reads   models/classifier.safetensors, data/images.zip, data/annotations.csv; params.yaml: export, compute
writes  models/classifier.onnx, metrics/export.json
run     dvc repro export, or: python -m stages.export
expect  about ten seconds; no disagreement with PyTorch on any test image, or the stage fails and writes nothing

The file: input `images`, (batch, channels, height, width) uint8; outputs `logits` and `probabilities`,
(batch, classes) float32. Scaling and normalisation are inside; class names and the input contract are its metadata.
"""

import sys
from pathlib import Path

if not __package__:  # run as `python stages/export.py`
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from stages.lib.errors import StageError
from stages.lib.stage import Run, run_stage


def main(run: Run) -> None:
    """Convert, compare on the whole test split, write."""
    import torch

    from stages.lib import compute, model_file, onnx_file, onnx_session
    from stages.lib.dataset import load_splits
    from stages.lib.scoring import logits_by_batch

    params, threads = run.param("export"), run.param("compute").threads
    compute.prepare(run.param("compute"))
    model_path = run.dep("models/classifier.safetensors")
    model, card = model_file.load(model_path)
    (test,) = load_splits(run.dep("data/annotations.csv"), run.dep("data/images.zip"), "test")
    card.check_fits(model_path, test)

    run.say(f"converting {card.architecture} to ONNX, then comparing it with PyTorch on {len(test):,} images")
    path = run.out("models/classifier.onnx")
    onnx_file.write(path, model, card, params.opset)

    cpu = torch.device("cpu")  # the file is compared with PyTorch where onnxruntime runs it
    expected = torch.cat([*logits_by_batch(model, model_file.Normalise(card), test.in_order(params.batch_size), cpu)])
    session = onnx_session.session(path, threads)
    batches = test.in_order(params.batch_size)
    got = torch.cat([torch.from_numpy(session.run(["logits"], {"images": batch.numpy()})[0]) for batch in batches])

    difference = (expected - got).abs().max().item()
    disagreeing = (expected.argmax(1) != got.argmax(1)).nonzero().flatten().tolist()
    if disagreeing:
        raise StageError(
            f"onnxruntime and PyTorch predict different classes for {len(disagreeing)} of {len(test):,} test images, "
            f"{test.names[disagreeing[0]]} for one; the largest difference of a logit is {difference:.2e}"
        )
    if not difference <= params.tolerance:  # so that NaN fails too
        raise StageError(
            f"onnxruntime's logits differ from PyTorch's by {difference:.2e}, more than export.tolerance "
            f"{params.tolerance:.2e}"
        )
    size = path.stat().st_size
    run.write_json(
        "metrics/export.json",
        {
            "accuracy": round((got.argmax(1) == test.labels).double().mean().item(), 6),
            "bytes": size,
            "disagreeing_predictions": len(disagreeing),
            # In millionths: `dvc metrics show` rounds to five decimals, where every good figure would be 0.0.
            "largest_difference_millionths": round(difference * 1e6, 3),
            "rows": len(test),
        },
    )
    run.say(f"wrote models/classifier.onnx: {size:,} bytes, largest difference to PyTorch {difference:.1e}")


if __name__ == "__main__":
    sys.exit(run_stage("export", main, __doc__))
