"""Debian's Chromium without a window, for tests of pages: real keys, pointer, clipboard; its console and requests."""

import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import urlsplit

import numpy as np
import pytest
from selenium import webdriver
from selenium.webdriver.support.wait import WebDriverWait

REQUIRED = "REQUIRE_BROWSER"  # .ci/run sets it: there, a test that cannot run is a failure
CHROMIUM = ("chromium", "chromium-browser", "google-chrome")
DRIVER = ("chromedriver", "chromium.chromedriver")


def cannot_run(reason: str) -> NoReturn:
    """Skip a test for want of a program, or fail where all programs must be there."""
    if os.environ.get(REQUIRED):
        pytest.fail(f"{REQUIRED} is set, but {reason}")
    pytest.skip(reason)


def find_program(names: tuple[str, ...], package: str) -> str:
    found = next(filter(None, map(shutil.which, names)), None)
    return found or cannot_run(f"{names[0]} is missing (on Debian: apt install {package})")


class Browser:
    """One window on one page.

    Attributes:
        driver: Selenium's.
    """

    def __init__(self, driver: webdriver.Chrome):
        self.driver = driver

    def wait_until(self, condition: Callable[[], Any], seconds: float = 30) -> Any:
        """What a condition returns as soon as it is true.

        Raises:
            selenium.common.TimeoutException: it did not become true.
        """
        return WebDriverWait(self.driver, seconds, poll_frequency=0.02).until(lambda _: condition())

    def devtools(self, command: str, **parameters: Any) -> Any:
        return self.driver.execute_cdp_cmd(command, parameters)

    def resize(self, width: int, height: int, mobile: bool = False) -> None:
        """Set the page's size in CSS pixels; a window without frame would be half a screen wide at least."""
        self.devtools(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=mobile
        )

    def use_colors(self, scheme: str) -> None:
        """Prefer ``light`` or ``dark``."""
        self.devtools("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])

    def drop(self, path: Path) -> None:
        """Drag a file from outside over the middle of the page and let it go there."""
        x, y = self.driver.execute_script("return [innerWidth / 2, innerHeight / 2]")
        data = {"items": [], "files": [str(path)], "dragOperationsMask": 1}
        for kind in ("dragEnter", "dragOver", "drop"):
            self.devtools("Input.dispatchDragEvent", type=kind, x=x, y=y, data=data)

    def reset(self) -> None:
        """As a new window with nothing remembered."""
        self.driver.delete_network_conditions()
        self.driver.get("about:blank")
        self.devtools("Emulation.clearDeviceMetricsOverride")
        self.devtools("Emulation.setEmulatedMedia", features=[])
        self.devtools("Browser.resetPermissions")
        self.devtools("Network.clearBrowserCache")
        self.console()
        self.hosts()

    def console(self) -> list[str]:
        """Warnings and errors since the last call, the browser's own among them (a missing file, a blocked host)."""
        return [entry["message"] for entry in self.driver.get_log("browser") if entry["level"] in ("WARNING", "SEVERE")]

    def hosts(self) -> set[str]:
        """Hosts (with port) that the page asked for anything since the last call."""
        events = [json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance")]
        sent = [event["params"] for event in events if event["method"] == "Network.requestWillBeSent"]
        addresses = [urlsplit(request["request"]["url"]) for request in sent]
        return {address.netloc for address in addresses if address.scheme in ("http", "https", "ws", "wss")}


def contrast(ink: str, paper: str) -> float:
    """The contrast of two colors, 1 to 21 if the ink is the darker one, else 1 to 1/21 (WCAG 2.2)."""

    def luminance(color: str) -> float:
        channels = np.array(re.findall(r"\d+", color)[:3], float) / 255
        linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
        return float(linear @ [0.2126, 0.7152, 0.0722])

    return (luminance(paper) + 0.05) / (luminance(ink) + 0.05)


@contextmanager
def chromium(profile: Path) -> Iterator[Browser]:
    """A Chromium with an empty profile, ended with all its processes."""
    options = webdriver.ChromeOptions()
    options.binary_location = find_program(CHROMIUM, "chromium")
    service = webdriver.ChromeService(find_program(DRIVER, "chromium-driver"))  # named, so that Selenium fetches none
    for word in ("headless", "no-sandbox", "disable-gpu", "disable-background-networking", "disable-dev-shm-usage"):
        options.add_argument(f"--{word}")
    options.add_argument(f"--user-data-dir={profile}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options, service)
    try:
        yield Browser(driver)
    finally:
        driver.quit()
