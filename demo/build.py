"""Build the page that runs the exported model in a browser, and serve it on localhost only.

reads   models/classifier.onnx, data/test_images, data/annotations.csv; demo/page/, demo/package-lock.json
writes  scratch/demo/site/, a static page that any web server can serve; scratch/demo/runtime/, the files fetched by npm
run     make demo, or: python -m demo.build [--port 8000] [--build-only]
expect  a few seconds, then the address of the page; needs npm, and the network the first time

onnxruntime-web cannot read a model's metadata, so `model.json` beside the model holds what the page needs: class names,
channels, height, width, background, samples. Nothing in the page is specific to FashionMNIST.
"""

import argparse
import contextlib
import functools
import http.server
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from classifier.data import images
from classifier.errors import StageError
from classifier.runner.cli import ROOT, make_parser, run_tool

MODEL, IMAGES, ANNOTATIONS = Path("models/classifier.onnx"), Path("data/test_images"), Path("data/annotations.csv")
SOURCES, SCRATCH = Path("demo"), Path("scratch/demo")
RUNTIME = ["ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm"]  # of onnxruntime-web: CPU only, one thread
SAMPLES = 40

logger = logging.getLogger("demo.build")


def main(argv: Sequence[str] | None = None) -> int:
    """Build, then serve until Ctrl-C."""
    parser = make_parser("demo.build", __doc__)
    parser.add_argument("--port", type=int, default=8000, help="port to serve on; 0: any free port (default: 8000)")
    parser.add_argument("--build-only", action="store_true", help="build the page but do not serve it")
    return run_tool("demo", parser, build_and_serve, argv)


def build_and_serve(arguments: argparse.Namespace) -> int:
    """Build the page, and serve it unless ``--build-only`` is given."""
    os.chdir(ROOT)
    site = build()
    logger.info(f"built {site}")
    if not arguments.build_only:
        signal.signal(signal.SIGINT, signal.default_int_handler)  # the server ends in order
        with contextlib.suppress(KeyboardInterrupt):  # the usual way to stop a server
            serve(site, arguments.port)
        print()
    return 0


def build() -> Path:
    """Put page, runtime, model and samples into one folder, completely or not at all.

    Raises:
        StageError: the model, the data or npm is missing.
    """
    about = describe_model()
    runtime = fetch_runtime()
    site, new = SCRATCH / "site", SCRATCH / "site.new"
    shutil.rmtree(new, ignore_errors=True)
    shutil.copytree(SOURCES / "page", new)
    for name in RUNTIME:
        shutil.copy(runtime / name, new)
    shutil.copy(MODEL, new)
    about |= write_samples(new)
    (new / "model.json").write_text(json.dumps(about, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    shutil.rmtree(site, ignore_errors=True)
    new.rename(site)
    return site


def describe_model() -> dict:
    """Class names, background, size in bytes and input shape of the model, from its file.

    Raises:
        StageError: the model is missing, or ``export`` did not write it.
    """
    import onnxruntime

    if not MODEL.exists():
        raise StageError(f"{MODEL} is missing; `make repro` makes it, `dvc pull` fetches it")
    try:
        session = onnxruntime.InferenceSession(MODEL, providers=["CPUExecutionProvider"])
        metadata = session.get_modelmeta().custom_metadata_map
        about = {key: json.loads(metadata[key]) for key in ("background", "class_names", "preprocessing")}
        _, channels, height, width = session.get_inputs()[0].shape
    except Exception as error:  # onnxruntime's errors have no common base
        raise StageError(f"{MODEL}: not a model that `export` wrote: {str(error).partition(chr(10))[0]}") from None
    return about | {"bytes": MODEL.stat().st_size, "channels": channels, "height": height, "width": width}


def write_samples(site: Path) -> dict:
    """Write test images as PNG, the same number of each class, and return a list of them.

    They are re-encoded, because browsers differ in decoding JPEG and do not support some formats; this way the page
    gets the same pixels as ``evaluate``.
    """
    from classifier.data import annotations

    from PIL import Image

    rows = annotations.read(ANNOTATIONS)
    test = rows[rows["split"] == "test"]
    each = max(1, SAMPLES // max(1, test["label"].nunique()))
    chosen = test.sort_values("label", kind="stable").groupby("label").head(each).head(SAMPLES)
    read = images.reader(IMAGES)
    (site / "samples").mkdir()
    samples = []
    for number, (name, class_name) in enumerate(zip(chosen["image"], chosen["class_name"], strict=True)):
        pixels = images.decode(read(name), name)  # (C, H, W)
        file = f"samples/{number:02}.png"
        Image.fromarray(pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0)).save(site / file)
        samples.append({"class_name": class_name, "file": file, "name": name})
    return {"samples": samples}


def fetch_runtime() -> Path:
    """The folder with the onnxruntime-web version of the lock file, fetched once from npm's cache or registry.

    Raises:
        StageError: npm is missing or failed.
    """
    lock, runtime, work = SOURCES / "package-lock.json", SCRATCH / "runtime", SCRATCH / "npm"
    made_from = runtime / lock.name
    if made_from.exists() and made_from.read_bytes() == lock.read_bytes():
        return runtime
    npm = shutil.which("npm")
    if not npm:
        raise StageError("npm, which fetches onnxruntime-web, is missing; install Node.js (on Debian: apt install npm)")
    logger.info("fetching onnxruntime-web with npm")
    for folder in (runtime, work):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
    for path in (SOURCES / "package.json", lock):
        shutil.copy(path, work)
    words = ["ci", "--ignore-scripts", "--no-audit", "--no-fund", "--prefer-offline", "--json"]
    done = subprocess.run([npm, *words], cwd=work, capture_output=True, text=True, check=False)
    if done.returncode:
        raise StageError(f"npm could not fetch onnxruntime-web: {npm_reason(done.stdout)}")
    for name in RUNTIME:
        shutil.copy(work / "node_modules" / "onnxruntime-web" / "dist" / name, runtime)
    shutil.copy(lock, made_from)  # last: its presence means that the rest is complete
    shutil.rmtree(work)  # 150 MB; the page needs a tenth of it
    return runtime


def npm_reason(output: str) -> str:
    """The first line of the error that ``npm --json`` reports."""
    try:
        error = json.loads(output)["error"]
        return f"{error['code']}: {error['summary'].partition(chr(10))[0]}"
    except (ValueError, KeyError, TypeError):
        return output.strip().partition("\n")[0] or "no reason given"


class Handler(http.server.SimpleHTTPRequestHandler):
    """Static files; the browser revalidates them each time, since a new build reuses the file names."""

    # The system's MIME table may lack these, and a browser runs a module only with the right type.
    extensions_map = http.server.SimpleHTTPRequestHandler.extensions_map | {
        ".js": "text/javascript",
        ".mjs": "text/javascript",
        ".wasm": "application/wasm",
        ".svg": "image/svg+xml",
    }

    def end_headers(self) -> None:
        """Send the caching header with every response."""
        self.send_header("Cache-Control", "no-cache")
        super().end_headers()

    def log_request(self, code: object = "-", size: object = "-") -> None:
        """Log nothing for successful requests."""


def serve(site: Path, port: int) -> None:
    """Serve a folder on the loopback interface until Ctrl-C.

    Raises:
        StageError: the port is taken.
    """
    try:
        server = http.server.ThreadingHTTPServer(("127.0.0.1", port), functools.partial(Handler, directory=site))
    except OSError as error:
        raise StageError(f"port {port}: {error.strerror}; choose another with --port (make demo PORT=8001)") from None
    with server:
        logger.info(f"open http://127.0.0.1:{server.server_port}/ (Ctrl-C to stop)")
        server.serve_forever()


if __name__ == "__main__":
    sys.exit(main())
