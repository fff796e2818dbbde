"""The model card: what the model is and where it holds, for whoever receives it.

Sections: Mitchell et al., "Model Cards for Model Reporting" (2019); the front matter is Hugging Face's. Every number
comes from a metrics file.
"""

from importlib.metadata import version
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd

TEMPLATE = Path(__file__).with_name("model_card.md.jinja")
PROJECT = "fashion-mnist-pipeline"
LIBRARIES = ("torch", "onnx", "numpy", "pillow")


def write(path: Path, *, classes: pd.DataFrame, findings: dict[str, Any], **content: Any) -> None:
    """Render the card.

    Args:
        path: of the Markdown file.
        classes: metrics/evaluate/classes.csv, with ``class`` as a column.
        findings: those of metrics/annotate.json.
        content: what else the template names.
    """
    environment = jinja2.Environment(
        undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    rows = classes.sort_values("class").to_dict("records")
    for row in rows:
        row["class"] = one_line(str(row["class"]))
    card = environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        classes=rows,
        untested=[row["class"] for row in rows if not row["support"]],
        similar=findings["nearly_identical"]["across_splits"],
        project=PROJECT,
        version=version(PROJECT),
        versions={name: version(name) for name in LIBRARIES},
        **content,
    )
    path.write_bytes(card.encode())


def one_line(text: str) -> str:
    """Text for a cell of a Markdown table."""
    return " ".join(text.split()).replace("|", "\\|")
