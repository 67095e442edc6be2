"""Debian's chromium without a window, driven as a person would: pages, forms, buttons, and what its console says."""

import shutil
import tempfile
from pathlib import Path
from typing import Any, Self

from selenium.common.exceptions import StaleElementReferenceException, WebDriverException
from selenium.webdriver import Chrome, ChromeOptions, ChromeService
from selenium.webdriver.common.by import By
from selenium.webdriver.support.select import Select

from tests.lab.waiting import poll

DESKTOP = (1280, 900)
PHONE = (390, 844)
_FLAGS = (
    "headless",
    "no-sandbox",
    "disable-gpu",
    "disable-quic",
    "no-first-run",
    "disable-background-networking",
    "disable-component-update",
    "disable-sync",
    "hide-scrollbars",
)


class Browser:
    """Starts on entry and stops on exit. Paths are below the server's URL."""

    def __init__(self, url: str, *, size: tuple[int, int] = DESKTOP, dark: bool = False, scripts: bool = True) -> None:
        self.url = url
        self._profile = Path(tempfile.mkdtemp(prefix="cloudctl-browser-"))
        options = ChromeOptions()
        for flag in (*_FLAGS, f"user-data-dir={self._profile}"):
            options.add_argument(f"--{flag}")
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        if not scripts:
            options.add_experimental_option("prefs", {"profile.managed_default_content_settings.javascript": 2})
        try:
            self._driver = Chrome(options=options, service=ChromeService("/usr/bin/chromedriver"))
        except BaseException:
            shutil.rmtree(self._profile, ignore_errors=True)
            raise
        self._driver.set_page_load_timeout(30)
        self.resize(size)
        if dark:
            media = {"features": [{"name": "prefers-color-scheme", "value": "dark"}]}
            self._driver.execute_cdp_cmd("Emulation.setEmulatedMedia", media)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._driver.quit()
        shutil.rmtree(self._profile, ignore_errors=True)

    def resize(self, size: tuple[int, int]) -> None:
        """The page's width and height in pixels, which no window's frame makes smaller."""
        metrics = {"width": size[0], "height": size[1], "deviceScaleFactor": 1, "mobile": False}
        self._driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)

    def log_in(self, user: str, password: str) -> None:
        """At the admin's entry."""
        self.open("/admin/")
        self.fill(username=user, password=password)
        self.press("Log in")

    def open(self, path: str) -> None:
        """Go to a page of the server."""
        self._driver.get(f"{self.url}{path}")

    @property
    def path(self) -> str:
        """Where it is."""
        return self._driver.current_url.removeprefix(self.url)

    @property
    def text(self) -> str:
        """What a person sees, in whole words. A page that goes while it is read is read again."""
        return poll(self._read, 10, "a page that stays while it is read")

    def _read(self) -> str | None:
        try:
            return str(self._driver.find_element(By.TAG_NAME, "main").text)
        except WebDriverException as error:
            # chromedriver has two ways to say it.
            if isinstance(error, StaleElementReferenceException) or "does not belong to the document" in str(error):
                return None
            raise

    def fill(self, **fields: str) -> None:
        """Fill fields of the page's form by their names."""
        for name, value in fields.items():
            field = self._driver.find_element(By.CSS_SELECTOR, f'main [name="{name}"]')
            if field.tag_name == "select":
                Select(field).select_by_value(value)
            else:
                field.clear()
                field.send_keys(value)

    def press(self, label: str) -> None:
        """Click the button or link with this text. A live page may replace it in that moment: then again."""
        xpath = f'//main//*[(self::a or self::button) and normalize-space()="{label}"]'

        def click() -> bool:
            try:
                self._driver.find_element(By.XPATH, xpath).click()
            except StaleElementReferenceException:
                return False
            return True

        poll(click, 10, f"the button {label}")

    def wait_text(self, wanted: str, seconds: float) -> None:
        """Returns when the page shows this, without being loaded again."""
        try:
            poll(lambda: wanted in self.text, seconds, f"the page shows {wanted!r}")
        except TimeoutError as late:
            raise TimeoutError(f"{late}; it shows {self.text}") from None

    def evaluate(self, script: str) -> Any:
        """What a script returns."""
        return self._driver.execute_script(script)

    def complaints(self) -> list[str]:
        """What the console said since it was asked last."""
        entries = self._driver.get_log("browser")  # type: ignore[no-untyped-call]
        return [f"{entry['level']}: {entry['message']}" for entry in entries]

    def screenshot(self, file: Path) -> None:
        """The visible part of the page as a PNG."""
        self._driver.save_screenshot(str(file))
