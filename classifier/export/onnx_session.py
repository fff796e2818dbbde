"""An onnxruntime session for the exported model. Does not import torch, so that ``predict`` starts quickly."""

from pathlib import Path

import onnxruntime


def create_session(path: Path, threads: int) -> onnxruntime.InferenceSession:
    """An onnxruntime session on the CPU; its threads do not spin, which would slow down PyTorch in the same process."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    # Its bytes: onnxruntime does not take every path in a locale of ASCII.
    return onnxruntime.InferenceSession(path.read_bytes(), options, providers=["CPUExecutionProvider"])
