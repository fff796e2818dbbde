"""The model card: what the model is and where it holds, for whoever receives it.

Sections: Mitchell et al., "Model Cards for Model Reporting" (2019); the front matter is Hugging Face's. Every number
comes from a metrics file.
"""

from importlib.metadata import version
from pathlib import Path
from typing import Any

from classifier import yaml_file
from classifier.model.serialization import ModelConfig

import jinja2
import pandas as pd

TEMPLATE = Path(__file__).with_name("model_card.md.jinja")
PROJECT = "fashion-mnist-pipeline"
UNKNOWN = "unknown"  # the author of a person's own model, unless dataset_info.json says who
LIBRARIES = ("torch", "onnx", "numpy", "pillow")


def write(
    path: Path,
    model_config: ModelConfig,
    metadata: dict[str, Any],
    *,
    test: dict[str, Any],
    findings: dict[str, Any],
    classes_file: Path,
) -> None:
    """Render the card of an exported file, with the figures of evaluate and the findings of annotate."""
    classes = pd.read_csv(classes_file, dtype={"class": "str"}, keep_default_na=False)
    data = {"homepage": "", "attribution": "", **metadata["training_data"]}
    environment = jinja2.Environment(
        undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    classes = classes.sort_values("class")
    classes["class"] = classes["class"].str.split().str.join(" ").str.replace("|", "\\|")  # fits a cell of a table
    rows = classes.to_dict("records")
    card = environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        classes=rows,
        untested=[row["class"] for row in rows if not row["support"]],
        similar=findings["nearly_identical"]["across_splits"],
        project=PROJECT,
        version=version(PROJECT),
        versions={name: version(name) for name in LIBRARIES},
        title=f"{data['name']} classifier",
        license=metadata["license"],
        own=metadata["author"] == UNKNOWN,
        data=data,
        num_images=data.pop("images"),
        background=metadata["background"],
        preprocessing=metadata["preprocessing"],
        config=model_config,
        test=test,
        params=yaml_file.as_text(model_config.trained_with),
    )
    path.write_bytes(card.encode())
