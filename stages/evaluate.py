"""Apply the trained model to the test images and say how good it is.

reads   models/classifier.safetensors, data/images.zip, data/annotations.csv; params.yaml: evaluate, compute
writes  metrics/evaluate.json, metrics/predictions.csv (one row a test image), metrics/evaluate/classes.csv
run     dvc repro evaluate, or: python -m stages.evaluate
expect  a few seconds; see the README for the accuracy of the default recipe

`dvc plots show` draws the confusion matrix from the predictions.
"""

import sys
from pathlib import Path

if not __package__:  # run as `python stages/evaluate.py`
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from stages.lib.stage import Run, run_stage


def main(run: Run) -> None:
    """Predict, count, write."""
    import numpy as np
    import pandas as pd
    import torch

    from stages.lib import compute, model_file
    from stages.lib.dataset import load_splits
    from stages.lib.scoring import logits_by_batch, loss_and_accuracy

    device = compute.prepare(run.param("compute"))
    model_path = run.dep("models/classifier.safetensors")
    model, card = model_file.load(model_path)
    (test,) = load_splits(run.dep("data/annotations.csv"), run.dep("data/images.zip"), "test")
    card.check_fits(model_path, test)

    model = model.to(device).to(memory_format=torch.channels_last)
    normalise = model_file.Normalise(card).to(device)
    batch_size = run.param("evaluate").batch_size
    logits = torch.cat([*logits_by_batch(model, normalise, test, batch_size, device)])

    loss, accuracy = loss_and_accuracy(logits, test.labels)
    labels, predicted = test.labels.numpy(), logits.argmax(1).numpy()
    names = np.array(card.class_names)
    frame = pd.DataFrame({"image": test.names, "label": names[labels], "predicted": names[predicted]})
    probabilities = logits.double().softmax(1).numpy()
    for number, name in enumerate(card.class_names):
        frame[f"probability of {name}"] = probabilities[:, number]
    frame.to_csv(run.out("metrics/predictions.csv"), index=False, float_format="%.6f", lineterminator="\n")

    correct = pd.Series(labels == predicted).groupby(names[labels]).mean()
    by_class = correct.sort_values().rename_axis("class").rename("accuracy").round(6)
    by_class.to_csv(run.out("metrics/evaluate/classes.csv"), lineterminator="\n")
    run.write_json(
        "metrics/evaluate.json",
        {
            "accuracy": round(accuracy, 6),
            "loss": round(loss, 6),
            "rows": len(test),
            "class_accuracy": {str(name): round(float(value), 6) for name, value in correct.items()},
        },
    )
    run.say(f"wrote metrics/evaluate.json: accuracy {accuracy:.2%}, loss {loss:.4f} on {len(test):,} test images")


if __name__ == "__main__":
    sys.exit(run_stage("evaluate", main, __doc__))
