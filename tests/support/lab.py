"""A real JupyterLab in a real, headless browser, driven as a user does."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import urlopen

import nbformat
from selenium import webdriver
from selenium.webdriver import ActionChains, ChromeOptions, ChromeService, Keys
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import WebDriverWait

from tests.support.rawserver import free_port

START_S = 120.0
PATIENCE_S = 30.0

_FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--force-device-scale-factor=1",
    "--window-size=1100,900",
)


def browsers() -> tuple[str, str] | None:
    """The browser and its driver, or None where one of them is missing."""
    browser = shutil.which("chromium") or shutil.which("chromium-browser")
    driver = shutil.which("chromedriver")
    return (browser, driver) if browser and driver else None


@contextlib.contextmanager
def browser(profile: Path, *, scale: int = 1) -> Iterator[webdriver.Chrome]:
    """Start a browser with an empty profile; ``scale`` is in pixels of a picture per CSS pixel."""
    found = browsers()
    assert found is not None, "install the Debian packages chromium and chromium-driver"
    options = ChromeOptions()
    options.binary_location = found[0]
    for flag in (*_FLAGS, f"--user-data-dir={profile}", f"--force-device-scale-factor={scale}"):
        options.add_argument(flag)
    driver = webdriver.Chrome(options=options, service=ChromeService(found[1]))
    try:
        yield driver
    finally:
        driver.quit()


@contextlib.contextmanager
def jupyterlab(folder: Path, env: Mapping[str, str], *, dark: bool = False) -> Iterator[str]:
    """Serve ``folder`` with JupyterLab on loopback, and return its address.

    Its settings are in the folder's own home, and it asks nobody outside for news.
    """
    home = folder / ".home"
    home.mkdir()
    port = free_port()
    settings = {
        "ServerApp": {
            "ip": "127.0.0.1",
            "port": port,
            "port_retries": 0,
            "open_browser": False,
            "allow_root": True,
            "root_dir": str(folder),
            "terminals_enabled": False,
        },
        "IdentityProvider": {"token": ""},
        "LabApp": {
            "user_settings_dir": str(home / "settings"),
            "extension_manager": "readonly",
            "news_url": None,
            "check_for_updates_class": "jupyterlab.NeverCheckForUpdate",
        },
    }
    (home / "config.json").write_text(json.dumps(settings))
    chosen = {
        "notification": {"fetchNews": "false", "checkForUpdates": False},
        "themes": {"theme": "JupyterLab Dark" if dark else "JupyterLab Light"},
    }
    for name, values in chosen.items():
        file = home / f"settings/@jupyterlab/apputils-extension/{name}.jupyterlab-settings"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(values))
    environment = {
        **os.environ,
        **env,
        "HOME": str(home),
        "JUPYTER_CONFIG_DIR": str(home),
        "JUPYTER_DATA_DIR": str(home / "data"),
        "JUPYTER_RUNTIME_DIR": str(home / "run"),
        "IPYTHONDIR": str(home / "ipython"),
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
    }
    log = home / "log"
    command = [sys.executable, "-m", "jupyterlab", f"--config={home / 'config.json'}"]
    with log.open("wb") as output:
        server = subprocess.Popen(
            command, cwd=folder, env=environment, stdout=output, stderr=subprocess.STDOUT
        )
    url = f"http://127.0.0.1:{port}"
    try:
        _wait_for_server(f"{url}/api", server, log)
        yield url
    finally:
        server.terminate()
        try:
            server.wait(10)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


def _wait_for_server(url: str, server: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + START_S
    while True:
        with contextlib.suppress(URLError, ConnectionError), urlopen(url, timeout=5):
            return
        if server.poll() is not None or time.monotonic() > end:
            raise AssertionError(f"JupyterLab did not start:\n{log.read_text()[-4000:]}")
        time.sleep(0.1)


class Lab:
    """An open notebook.

    Args:
        driver: the browser.
        url: JupyterLab's address.
        name: the notebook's file, below the folder that is served.
    """

    def __init__(self, driver: webdriver.Chrome, url: str, name: str) -> None:
        self.driver = driver
        driver.get(f"{url}/doc/tree/{name}")
        self.wait(lambda: self.idle, START_S, "the kernel to start")
        self.wait(lambda: not self.find(".jp-Spinner"), what="the notebook to be there")

    def wait(self, holds: Any, patience_s: float = PATIENCE_S, what: str = "") -> Any:
        """Wait until ``holds()`` is true, and return what it returned."""
        waiting = WebDriverWait(self.driver, patience_s, poll_frequency=0.02)
        return waiting.until(lambda _: holds(), f"waited for {what or holds}")

    def find(self, selector: str) -> list[WebElement]:
        """The elements that a CSS selector finds."""
        return self.driver.find_elements(By.CSS_SELECTOR, selector)

    def find_in(self, element: WebElement, selector: str) -> list[WebElement]:
        """The elements below another one that a CSS selector finds."""
        return element.find_elements(By.CSS_SELECTOR, selector)

    @property
    def idle(self) -> bool:
        """Whether the kernel is ready, as the status bar shows it."""
        return any("| Idle" in bar.text for bar in self.find("#jp-main-statusbar"))

    def cell(self, number: int) -> WebElement:
        """A cell, counted from 0."""
        return self.find(".jp-Notebook .jp-Cell")[number]

    def output(self, number: int) -> str:
        """The text that a cell shows below its code."""
        script = "const o=arguments[0].querySelector('.jp-OutputArea');return o?o.innerText:''"
        return str(self.driver.execute_script(script, self.cell(number)))

    def start(self, number: int) -> None:
        """Select a cell and run it, with the keys that users press."""
        self.cell(number).find_element(By.CSS_SELECTOR, ".jp-InputPrompt").click()
        ActionChains(self.driver).key_down(Keys.CONTROL).send_keys(Keys.ENTER).key_up(
            Keys.CONTROL
        ).perform()

    def run(self, number: int) -> str:
        """Run a cell to its end, and return the text that it shows."""
        before = self.prompt(number)
        self.start(number)
        self.wait(lambda: self.prompt(number) != before and self.ended(number))
        return self.output(number)

    def ended(self, number: int) -> bool:
        """Whether a cell that was started has ended, and all that it shows is there."""
        return self.prompt(number) != "[*]:" and self.idle

    def prompt(self, number: int) -> str:
        """What stands left of a cell, such as ``[3]:``."""
        return self.cell(number).find_element(By.CSS_SELECTOR, ".jp-InputPrompt").text

    def press_stop(self) -> None:
        """Press the toolbar's button that interrupts the kernel."""
        [button] = self.find('[data-command="notebook:interrupt-kernel"]')
        button.click()

    def picture(self, path: Path) -> None:
        """Save what the window shows."""
        self.driver.save_screenshot(str(path))

    def picture_of(self, number: int, path: Path) -> None:
        """Save what a cell shows below its code."""
        self.cell(number).find_element(By.CSS_SELECTOR, ".jp-OutputArea").screenshot(str(path))


def write_notebook(path: Path, cells: Sequence[str]) -> None:
    """Write a notebook with these cells of code."""
    notebook = nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_code_cell(code) for code in cells],
        metadata={"kernelspec": {"name": "python3", "display_name": "Python 3"}},
    )
    nbformat.write(notebook, path)
