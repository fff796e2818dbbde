"""The versions of packages: environment.toml has those that a result is recorded with."""

import tomllib
from collections.abc import Iterable
from importlib.metadata import version

from classifier.errors import ParamsError
from classifier.runner.declaration import ENVIRONMENT


def installed(names: Iterable[str]) -> dict[str, str]:
    """The installed version of each package, without the part that names a build (``2.15.0+cpu``)."""
    return {name: version(name).partition("+")[0] for name in names}


def differences(names: Iterable[str]) -> list[str]:
    """A line for each package that is installed in another version than environment.toml has.

    Raises:
        ParamsError: the file is missing or not TOML.
    """
    try:
        expected = tomllib.loads(ENVIRONMENT.read_text(encoding="utf-8"))["packages"]
    except (OSError, ValueError, KeyError) as error:
        raise ParamsError(
            f"{ENVIRONMENT}: not readable ({error}); `git checkout {ENVIRONMENT}` brings it back"
        ) from None
    return [
        f"{name} {found} is installed, {ENVIRONMENT} has {' or '.join(expected.get(name, ['none']))}"
        for name, found in installed(names).items()
        if found not in expected.get(name, ())
    ]
