"""Tables of labeled images as bytes of files, by column."""

import io
import json
from typing import Any

import pyarrow as pa
import pyarrow.parquet


def json_lines(**columns: list[Any]) -> bytes:
    rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    return "\n".join(json.dumps(row, ensure_ascii=False) for row in rows).encode()


def parquet(huggingface: str | None = None, /, **columns: Any) -> bytes:
    """The file of a table, with the metadata of a Hugging Face data set if there are some."""
    out = io.BytesIO()
    metadata = {} if huggingface is None else {"huggingface": huggingface}
    pyarrow.parquet.write_table(pa.table(columns).replace_schema_metadata(metadata), out)
    return out.getvalue()


def class_names(*names: str) -> str:
    """The metadata in which labels are numbers of these classes."""
    features = {"image": {"_type": "Image"}, "label": {"_type": "ClassLabel", "names": names}}
    return json.dumps({"info": {"features": features}})
