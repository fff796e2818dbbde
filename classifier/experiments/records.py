"""The known runs of a search or comparison: a file for each that has ended, which is never changed.

The records and the settings are the whole truth: what comes next is computed from them alone.
"""

import json
from pathlib import Path
from typing import Any

from classifier import portability
from classifier.runner import files

Record = dict[str, Any]  # params, and the objective as value; None and an error if the run can come to no result


class Records(dict[str, Record]):
    """All records by their key, which are in files as well.

    Args:
        folder: of the files; is made when it is needed.
    """

    def __init__(self, folder: Path):
        super().__init__()
        self._folder = folder
        for path in sorted(folder.glob("[!.]*.json")):
            self[path.stem] = json.loads(path.read_text(encoding="utf-8"))

    def add(self, key: str, record: Record) -> None:
        """Keep a record."""
        files.atomic_write(self._folder / f"{key}.json", portability.json_bytes(record))
        self[key] = record
