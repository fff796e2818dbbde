"""Review a change, in Markdown: what differs in params, packages, data, code and metrics, and is the model better?

reads   both versions of what git and dvc.lock record; through DVC, which fetches what is missing, those of
        data/annotations.csv and metrics/predictions.csv; data/test_images
writes  scratch/review.png (--sheet): the images whose prediction changed, the worst first
run     python -m tools.review [BASE] [--sheet FILE] [--fail-below X] > review.md
expect  seconds, no training; one line if nothing changed; what is not available is left out, with the reason
"""

import os
import sys
from collections.abc import Sequence

from classifier.experiments.review import review
from classifier.runner.cli import ROOT, make_parser, run_tool


def main(argv: Sequence[str] | None = None) -> int:
    """Parse the command line and print the review."""
    parser = make_parser("tools.review", __doc__)
    begin = "the commit at which this branch left origin/main, or main"
    parser.add_argument("base", metavar="BASE", nargs="?", help=f"git revision or experiment (default: {begin})")
    parser.add_argument("--sheet", metavar="FILE", default="scratch/review.png", help="default: %(default)s")
    fails = "status 1 if the 95 %% interval of the accuracy difference lies below X, such as 0.0"
    parser.add_argument("--fail-below", type=float, metavar="X", help=fails)
    os.chdir(ROOT)
    return run_tool("review", parser, review, argv)


if __name__ == "__main__":
    sys.exit(main())
