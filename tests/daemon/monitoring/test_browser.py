"""The page in a real Chromium: layout, light and dark, hostile text, keyboard, no growth."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from qzd_client.messages import Box
from support.page_server import PageServer, detections
from support.waiting import until

webdriver = pytest.importorskip("selenium.webdriver")
CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="no chromium and chromedriver")

HOSTILE = "<img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script>"
SIZES = [(390, 844), (1440, 900)]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(DRIVER))
    yield driver
    driver.quit()


@pytest.fixture
def page() -> Iterator[PageServer]:
    """Serve a page whose gate sends frames with a person, and something with a hostile label."""
    server = PageServer("gate", "yard", "cellar")
    ended = threading.Event()
    found = [
        Box(i, label, 0.9, (40.0 * i, 20.0, 40.0 * i + 30, 90.0))
        for i, label in enumerate(("person", HOSTILE))
    ]
    server.log = [f"2026-12-01 00:00:00 WARNING stream cellar: {HOSTILE}"]

    def send() -> None:
        number = 0
        while not ended.wait(0.1):
            number += 1
            server.say(detections("gate", *found, frame=number), grey=number % 200)
            server.say(detections("cellar", outcome="error", reason=HOSTILE, frame=number))

    thread = threading.Thread(target=send)
    thread.start()
    yield server
    ended.set()
    thread.join()
    server.close()


def show(
    browser: Any, page: PageServer, size: tuple[int, int], scheme: str = "light", part: str = ""
) -> None:
    """Load the page, and wait for its state and first picture."""
    width, height = size
    metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    browser.get("about:blank")
    browser.get_log("browser")
    browser.get(f"http://{page.address}/{part}")
    until(lambda: browser.execute_script("return document.querySelectorAll('.tile').length") == 3)
    until(lambda: browser.execute_script("return document.querySelector('canvas[role=img]') !== null"))


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("part", ["", "#gate"])
def test_page_fits_and_logs_nothing(
    browser: Any, page: PageServer, size: tuple[int, int], scheme: str, part: str
) -> None:
    show(browser, page, size, scheme, part)
    assert browser.execute_script("return document.documentElement.scrollWidth") <= size[0]
    assert browser.get_log("browser") == []


CONTRAST = """
const light = (text) => {
  const [r, g, b, a = 1] = text.match(/[\\d.]+/g).map(Number);
  const part = (c) => ((c /= 255) <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
  return [0.2126 * part(r) + 0.7152 * part(g) + 0.0722 * part(b), a];
};
const behind = (place) => {
  for (let at = place; at; at = at.parentElement) {
    const [value, alpha] = light(getComputedStyle(at).backgroundColor);
    if (alpha > 0.7) return value;
  }
  return 1;
};
const poor = [];
for (const place of document.querySelectorAll("body *")) {
  const own = [...place.childNodes].some((node) => node.nodeType === 3 && node.data.trim());
  if (!own || !place.checkVisibility()) continue;
  const [a, b] = [light(getComputedStyle(place).color)[0], behind(place)].sort((x, y) => y - x);
  const ratio = (a + 0.05) / (b + 0.05);
  if (ratio < 4.5) poor.push(`${place.tagName}.${place.className}: ${ratio.toFixed(2)}`);
}
return poor;
"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("part", ["", "#gate", "#cellar"])
def test_every_text_has_the_contrast_of_wcag_aa(
    browser: Any, page: PageServer, scheme: str, part: str
) -> None:
    page.problems.append("stream cellar: down for 40 s")
    if part == "#cellar":
        show(browser, page, SIZES[1], scheme)
        browser.execute_script("location.hash = 'cellar'")
        until(lambda: browser.execute_script("return document.querySelectorAll('#reasons li').length"))
    else:
        show(browser, page, SIZES[1], scheme, part)
    assert browser.execute_script(CONTRAST) == []


@pytest.mark.parametrize("part", ["#gate", "#cellar"])
def test_text_from_outside_is_text(browser: Any, page: PageServer, part: str) -> None:
    show(browser, page, SIZES[1])
    browser.execute_script(f"location.hash = '{part}'")
    until(lambda: HOSTILE in browser.execute_script("return document.getElementById('one').textContent"))
    assert HOSTILE in browser.execute_script("return document.getElementById('log').textContent")
    assert browser.execute_script("return document.querySelectorAll('img, body script').length") == 0
    assert browser.title == "qzd"


def test_keyboard_opens_a_stream_and_escape_leaves_it(browser: Any, page: PageServer) -> None:
    from selenium.webdriver.common.keys import Keys

    show(browser, page, SIZES[1])
    body = browser.switch_to
    for _ in range(2):  # the name of the page, then the first tile
        body.active_element.send_keys(Keys.TAB)
    body.active_element.send_keys(Keys.ENTER)
    until(lambda: browser.execute_script("return !document.getElementById('one').hidden"))
    assert browser.execute_script("return document.activeElement.id") == "back"
    body.active_element.send_keys(Keys.ESCAPE)
    until(lambda: browser.execute_script("return document.getElementById('one').hidden"))


def test_page_when_the_daemon_goes_away_says_so(browser: Any, page: PageServer) -> None:
    show(browser, page, SIZES[0])
    page.close()
    until(
        lambda: "no answer" in browser.execute_script("return document.getElementById('health').textContent")
    )


def test_page_left_open_does_not_grow(browser: Any, page: PageServer) -> None:
    show(browser, page, SIZES[1], part="#gate")
    script = "return document.querySelectorAll('*').length"
    until(lambda: browser.execute_script("return document.querySelectorAll('#counts .count').length") == 2)
    before = browser.execute_script(script)
    shown = "return Number(performance.now())"
    began = browser.execute_script(shown)
    until(lambda: browser.execute_script(shown) - began > 4000)
    assert browser.execute_script(script) == before


def test_page_that_is_hidden_asks_for_nothing(browser: Any, page: PageServer) -> None:
    show(browser, page, SIZES[1])
    assert page.view._watched
    browser.execute_script(
        "Object.defineProperty(document, 'hidden', {value: true});"
        "document.dispatchEvent(new Event('visibilitychange'));"
    )
    until(lambda: not page.view._watched)
