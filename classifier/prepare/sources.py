"""Sources of the raw files: folders, file, http and https URLs, and the Debian package. All content is verified."""

import gzip
import hashlib
import io
import os
import shutil
import subprocess
import tempfile
import time
import urllib.request
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from classifier.prepare.registry import RawFile

import fsspec
from aiohttp import (
    ClientConnectorError,
    ClientError,
    ClientResponseError,
    ClientTimeout,
    ConnectionTimeoutError,
    InvalidURL,
)
from fsspec.callbacks import TqdmCallback
from fsspec.exceptions import FSTimeoutError

DEBIAN = "debian:"
RETRIES = 2  # of each file, with a growing pause, after failures that may be temporary
MAX_BACKOFF_SECONDS = 8
CONNECT_SECONDS = 2  # a firewall that drops packets must not cost more, for each source


class SourceError(Exception):
    """Why a source did not deliver a file; ``again`` says whether a retry may succeed."""

    def __init__(self, reason: str, again: bool = False):
        super().__init__(reason)
        self.again = again


@contextmanager
def opened(source: str) -> Iterator[str]:
    """The folder or URL that holds a source's files; the Debian package is unpacked into a temporary folder.

    Raises:
        SourceError: apt-get is missing or failed.
    """
    if source.startswith(DEBIAN):
        with tempfile.TemporaryDirectory() as folder:
            yield str(_unpack_debian(source.removeprefix(DEBIAN), Path(folder)))
    else:
        yield source


def fetch(base: str, raw: RawFile, timeout_seconds: float) -> bytes:
    """One raw file's verified, uncompressed content.

    Raises:
        SourceError: the source has no such file, does not answer, or its content is not the published one.
    """
    for attempt in range(RETRIES + 1):
        try:
            return verified(raw, _read_either(base, raw.name, timeout_seconds))
        except SourceError as error:
            if not error.again or attempt == RETRIES:
                raise
        time.sleep(min(2**attempt, MAX_BACKOFF_SECONDS))
    raise AssertionError("unreachable: the last attempt returns or raises")


def verified(raw: RawFile, content: bytes) -> bytes:
    """The uncompressed content, if it or its .gz has a published digest.

    Raises:
        SourceError: neither matches; the message describes the content instead.
    """
    gzip_matches = hashlib.md5(content, usedforsecurity=False).hexdigest() == raw.gzip_md5
    if content[:2] == b"\x1f\x8b":
        try:
            content = gzip.decompress(content)
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise SourceError(f"{raw.name}: truncated or damaged gzip ({error})", again=True) from None
    if gzip_matches:
        return content
    got = hashlib.md5(content, usedforsecurity=False).hexdigest()
    if got == raw.content_md5:
        return content
    if content.lstrip()[:1] == b"<":
        raise SourceError(f"{raw.name}: an HTML or XML page came instead of the file (a login or proxy page?)")
    wanted = f"{raw.content_md5}" if raw.content_md5 else f"{raw.gzip_md5} (as .gz)"
    raise SourceError(f"{raw.name}: wrong content: {len(content):,} bytes with MD5 {got}; published is {wanted}")


def _read_either(base: str, name: str, timeout_seconds: float) -> bytes:
    """The bytes of ``NAME.gz`` or, where there is none, of ``NAME``."""
    try:
        return _read(f"{base.rstrip('/')}/{name}.gz", timeout_seconds)
    except FileNotFoundError:
        pass
    try:
        return _read(f"{base.rstrip('/')}/{name}", timeout_seconds)
    except FileNotFoundError:
        raise SourceError(f"{name}: not found there, with or without .gz") from None


def _read(url: str, timeout_seconds: float) -> bytes:

    options = {}
    if url.startswith(("http:", "https:")):
        # The timeouts limit silence, not the total time, so a slow connection is fine. trust_env: proxies.
        connect = min(timeout_seconds, CONNECT_SECONDS)
        silence = ClientTimeout(total=None, connect=connect, sock_connect=connect, sock_read=timeout_seconds)
        options["client_kwargs"] = {"timeout": silence, "trust_env": True}
    name = url.rpartition("/")[2]
    variable = _proxy_variable(url)
    # Its value may hold a password, before the @.
    proxy = os.environ.get(variable, "").rpartition("@")[2].rpartition("://")[2].rstrip("/")
    host = f"the proxy {proxy} of {variable}" if variable else "the host"
    through = f" through {host}" if variable else ""
    bar = TqdmCallback(
        tqdm_kwargs={"desc": name, "unit": "B", "unit_scale": True, "leave": False, "disable": None, "delay": 1}
    )
    content = io.BytesIO()
    try:
        filesystem, path = fsspec.url_to_fs(url, **options)
        filesystem.get_file(path, content, callback=bar)
    except FileNotFoundError:
        raise
    except ClientConnectorError as error:  # not worth a second try: other sources follow
        number, text = error.os_error.errno or 0, error.os_error.strerror  # an unknown name has a negative number
        raise SourceError(f"{name}: {host} cannot be reached ({os.strerror(number) if number > 0 else text})") from None
    except (FSTimeoutError, TimeoutError) as error:
        if isinstance(error.__cause__ or error, ConnectionTimeoutError):  # fsspec raises its own error from it
            raise SourceError(f"{name}: {host} cannot be reached (timeout)") from None
        raise SourceError(f"{name}: no answer in {timeout_seconds:g} s{through}", again=True) from None
    except InvalidURL as error:  # the source's own, or the proxy's
        wrong = variable and "://" not in os.environ[variable]
        where = f"the proxy in {variable} must begin with http://" if wrong else f"no URL: {error}"
        raise SourceError(f"{name}: {where}") from None
    except ClientResponseError as error:
        raise SourceError(f"{name}: HTTP status {error.status} {error.message}{through}", error.status >= 500) from None
    except (ClientError, OSError) as error:
        raise SourceError(f"{name}: {type(error).__name__}: {error}{through}", again=True) from None
    except ValueError as error:  # an unknown protocol, a port that is no number
        raise SourceError(f"{error}{through}") from None
    return content.getvalue()


def _proxy_variable(url: str) -> str:
    """The variable of the environment that names the proxy for a URL, as aiohttp reads it; empty if there is none."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or urllib.request.proxy_bypass(parts.hostname or ""):
        return ""
    name = f"{parts.scheme}_proxy"
    return next((each for each in (name, name.upper()) if os.environ.get(each)), "")


def _unpack_debian(package: str, folder: Path) -> Path:
    """Fetch a package with apt-get, keeping its lists and cache in ``folder``, so that it does not need root."""
    if not shutil.which("apt-get") or not shutil.which("dpkg-deb"):
        raise SourceError("no apt-get and dpkg-deb on this machine")
    for name in ("lists/partial", "archives/partial", "unpacked"):
        (folder / name).mkdir(parents=True)
    own = [f"Dir::State::Lists={folder}/lists", f"Dir::Cache={folder}", "APT::Sandbox::User=root"]
    apt = ["apt-get", "-qq", *(word for option in own for word in ("-o", option))]
    for command in ([*apt, "update"], [*apt, "download", package]):
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        if done.returncode:
            reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
            raise SourceError(f"apt-get {command[-1]} failed: {reason}")
    (archive,) = folder.glob("*.deb")
    subprocess.run(["dpkg-deb", "-x", archive, folder / "unpacked"], check=True)
    found = sorted((folder / "unpacked").rglob("*images-idx3-ubyte*"))
    if not found:
        raise SourceError(f"the package {package} has no IDX files in it")
    return found[0].parent
