"""Commands beside the pipeline: classify pictures, compare, search, list checkpoints, repair, release."""

import stages  # noqa: F401 (refuses a Python without the libraries)
