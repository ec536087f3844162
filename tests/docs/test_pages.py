"""The pages as a reader's browser shows them."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from selenium.webdriver import Chrome

from tests.support.lab import browser, browsers

pytestmark = [pytest.mark.browser]
if browsers() is None:
    why = "needs a browser: apt-get install chromium chromium-driver"
    pytestmark.append(pytest.mark.skip(reason=why))

DOCS = Path(__file__).parents[2] / "docs"

# What stands beyond the right edge of the page, or of the frame that a table is in.
CUT = """
const width = document.documentElement.clientWidth;
const framed = (item) => item.closest(".wide, pre, .table-wrapper, .cell_output");
const beyond = [...document.querySelectorAll("article *")].filter((item) =>
  !framed(item) && item.getBoundingClientRect().right > width + 1);
const tables = [...document.querySelectorAll("article table")].filter((table) =>
  table.offsetWidth > table.parentElement.clientWidth);
const scrolls = document.documentElement.scrollWidth > width ? ["the page"] : [];
return scrolls.concat([...beyond, ...tables].map((item) =>
  item.tagName + ": " + item.textContent.trim().slice(0, 60)));
"""


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Build the site; a warning fails."""
    site = tmp_path_factory.mktemp("site")
    build = [sys.executable, "-m", "sphinx", "-q", "-W", "-d", site / "trees", DOCS, site / "html"]
    done = subprocess.run(build, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr
    return sorted(path for path in (site / "html").rglob("*.html") if "_static" not in path.parts)


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chrome]:
    """Start the browser."""
    with browser(tmp_path_factory.mktemp("profile")) as started:
        yield started


@pytest.mark.parametrize("width", [390, 1300])
def test_nothing_is_cut(pages: list[Path], driver: Chrome, width: int) -> None:
    """No page scrolls sideways, on a phone or a laptop, and every table fits its place."""
    screen = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
    cut = {}
    for page in pages:
        driver.get(page.as_uri())
        found = driver.execute_script(CUT)
        if found:
            cut[page.name] = found[:5]
    assert len(pages) > 40
    assert cut == {}


def test_a_wide_table_becomes_a_list(pages: list[Path], driver: Chrome) -> None:
    """On a phone each value of a wide table stands beside the heading of its column."""
    screen = {"width": 390, "height": 900, "deviceScaleFactor": 1, "mobile": True}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
    driver.get(next(page for page in pages if page.name == "comparison.html").as_uri())
    table = "const table = document.querySelector('table'); "
    heads = driver.execute_script(
        table + "return [...table.rows[1].cells].map((cell) => cell.dataset.head)"
    )
    assert heads[:2] == ["the first service", "llmproviders"]
    shown = driver.execute_script(
        table + "return getComputedStyle(table.rows[1].cells[1], '::before').content"
    )
    assert shown == "attr(data-head)" or shown == '"llmproviders"'
