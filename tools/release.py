"""Pack what belongs to a model into one folder, with a manifest of SHA-256 digests; or check such a folder.

reads   models/, metrics/, data/annotations.csv, dvc.lock, examples/
writes  scratch/release/NAME/: model, card, metrics, examples, demo and manifest.json; with --tag an annotated git tag
run     python -m tools.release build v1.0.0 [--tag] [--without-demo]
        python -m tools.release check FOLDER
expect  a few seconds, most of them for the demo, which needs npm; check ends with status 1 and names every file that
        is missing, changed or not listed

`dvc artifacts get URL classifier-onnx --rev v1.0.0` in another project needs the tag, pushed with `git push --tags`.
"""

import argparse
import json
import os
import re
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from classifier import portability
from classifier.errors import StageError
from classifier.experiments.git import git
from classifier.runner import files
from classifier.runner.cli import ROOT, make_parser, run_tool
from demo.build import build as build_demo

from dvc.repo import Repo

FOLDER = Path("scratch/release")
MANIFEST = "manifest.json"
ARTIFACTS = ("classifier", "classifier-onnx")
# Where each file or folder of the project lies in a release.
CONTENT = {
    "models/README.md": "README.md",
    "models/classifier.onnx": "classifier.onnx",
    "models/classifier.safetensors": "classifier.safetensors",
    "models/int8": "int8",
    "examples": "examples",
    "metrics": "metrics",
    "data/annotations.csv": "annotations.csv",
    "data/dataset_info.json": "dataset_info.json",
    "params.yaml": "params.yaml",
    "dvc.lock": "dvc.lock",
    "LICENSE": "LICENSE",
}
LEFT_OUT = shutil.ignore_patterns(".*", "node_modules", "__pycache__")


def main(argv: Sequence[str] | None = None) -> int:
    """Parse the command line; build or check."""
    parser = make_parser("tools.release", __doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    build_parser = commands.add_parser("build", help="pack the current model")
    build_parser.add_argument("version", metavar="VERSION", help="such as v1.0.0")
    build_parser.add_argument(
        "--tag", action="store_true", help="also make the git tags that `dvc artifacts get` wants"
    )
    build_parser.add_argument("--without-demo", action="store_true", help="leave the page out, which needs npm")
    check_parser = commands.add_parser("check", help="compare a folder with its manifest")
    check_parser.add_argument("folder", type=Path, metavar="FOLDER")
    return run_tool("release", parser, lambda a: build(a) if a.command == "build" else check(a.folder), argv)


def build(arguments: argparse.Namespace) -> int:
    """Pack the committed, finished state.

    Raises:
        StageError: something is not committed or not up to date, or the version is no version.
    """
    os.chdir(ROOT)
    version = arguments.version
    if not re.fullmatch(r"v[0-9]+\.[0-9]+\.[0-9]+", version):
        raise StageError(f"{version}: is no version such as v1.0.0")
    if changed := git(ROOT, "status", "--porcelain"):
        raise StageError(f"not committed: {changed.splitlines()[0].split(maxsplit=1)[1]}; a release is a commit")
    with Repo() as repo:
        if repo.status():
            raise StageError("the results are not those of the committed code and params; run `make repro` and commit")
    target, new = FOLDER / version, FOLDER / f"{version}.new"
    shutil.rmtree(new, ignore_errors=True)
    content = dict(CONTENT)
    if not arguments.without_demo:
        content[str(build_demo())] = "demo"
    for source, name in content.items():
        (new / name).parent.mkdir(parents=True, exist_ok=True)
        if Path(source).is_dir():
            shutil.copytree(source, new / name, ignore=LEFT_OUT)
        else:
            shutil.copy(source, new / name)
    manifest = {"commit": git(ROOT, "rev-parse", "HEAD"), "files": content_of(new), "version": version}
    (new / MANIFEST).write_bytes(portability.json_bytes(manifest))
    shutil.rmtree(target, ignore_errors=True)
    new.rename(target)
    if arguments.tag:
        for artifact in ARTIFACTS:
            git(ROOT, "tag", "--annotate", f"{artifact}@{version}", "--message", f"{artifact} {version}")
    print(f"{target}: {len(manifest['files'])} files; {MANIFEST} has their digests")
    return 0


def check(folder: Path) -> int:
    """Print every difference between a folder and its manifest.

    Raises:
        StageError: there is no manifest.
    """
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        expected: dict[str, str] = manifest["files"]
    except (OSError, ValueError, KeyError, TypeError):
        raise StageError(f"{folder / MANIFEST}: is missing or no manifest of a release") from None
    found = content_of(folder)
    for name in sorted(expected.keys() | found.keys()):
        if found.get(name) != expected.get(name):
            kind = "missing" if name not in found else "not in the manifest" if name not in expected else "changed"
            print(f"{name}: {kind}")
    if found == expected:
        print(f"{folder}: all {len(found)} files are those of {manifest['version']}, commit {manifest['commit']}")
    return int(found != expected)


def content_of(folder: Path) -> dict[str, str]:
    """SHA-256 of each file but the manifest, by its place in the folder."""
    return {
        path.relative_to(folder).as_posix(): files.digest(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path != folder / MANIFEST
    }


if __name__ == "__main__":
    sys.exit(main())
