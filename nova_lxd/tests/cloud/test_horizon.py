# SPDX-License-Identifier: Apache-2.0
"""Horizon in a real browser: launch a server, read its log, use its serial console, delete it.

Needs Debian's chromium and chromium-driver and python's selenium; screenshots go to
``$NOVA_LXD_ARTIFACTS``, or else to the cloud's directory ``screenshots``.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from cloud.cli import open_cloud

from nova_lxd.tests.cloud.world import World, eventually

webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")

from selenium.common.exceptions import TimeoutException  # noqa: E402
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402
from selenium.webdriver.support import expected_conditions as expected  # noqa: E402
from selenium.webdriver.support.ui import WebDriverWait  # noqa: E402

pytestmark = pytest.mark.skipif(shutil.which("chromedriver") is None,
                                reason="Debian's chromium-driver is not installed")
PAGE_SECONDS = 60


class Dashboard:
    """A browser that is logged in to Horizon as user demo."""

    def __init__(self, state: Path, browser: Any) -> None:
        cloud = open_cloud(state)
        self.browser = browser
        self.address = cloud.url("horizon")
        self.pictures = Path(os.environ.get("NOVA_LXD_ARTIFACTS") or cloud.data("screenshots"))
        self.log_in("demo", cloud.password("demo"))

    def log_in(self, user: str, password: str) -> None:
        self.open("/auth/login/")
        self.find(By.ID, "id_username").send_keys(user)
        self.find(By.ID, "id_password").send_keys(password, Keys.ENTER)
        self.wait(expected.presence_of_element_located((By.CSS_SELECTOR, ".user-name")))

    def open(self, path: str) -> None:
        self.browser.get(f"{self.address}{path}")

    def find(self, by: str, value: str) -> Any:
        """The element, as soon as the page has it."""
        return self.wait(expected.presence_of_element_located((by, value)))

    def wait(self, condition: Any) -> Any:
        try:
            return WebDriverWait(self.browser, PAGE_SECONDS).until(condition)
        except TimeoutException:
            self.picture("failed")
            raise

    def click(self, by: str, value: str) -> None:
        """Click the element, as soon as it can be."""
        self.wait(expected.element_to_be_clickable((by, value))).click()

    def wait_text(self, by: str, value: str, text: str) -> None:
        """Until the element says ``text``; TimeoutException when it never does."""
        self.wait(expected.text_to_be_present_in_element((by, value), text))

    def picture(self, name: str) -> None:
        assert self.browser.save_screenshot(str(self.pictures / f"horizon-{name}.png"))


@pytest.fixture
def browser(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Any]:
    """A headless Chromium with a profile of its own."""
    # The driver is reached over loopback: never by a proxy of the environment.
    monkeypatch.setenv("no_proxy", "127.0.0.1,localhost")
    options = webdriver.ChromeOptions()
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage",
                     "--no-proxy-server", "--window-size=1400,1000",
                     f"--user-data-dir={tmp_path / 'profile'}"):
        options.add_argument(argument)
    service = webdriver.ChromeService(executable_path=shutil.which("chromedriver"))
    with ExitStack() as undo:
        chromium = webdriver.Chrome(options=options, service=service)
        undo.callback(chromium.quit)
        yield chromium


@pytest.fixture
def dashboard(state: Path, browser: Any) -> Dashboard:
    return Dashboard(state, browser)


def launch(dashboard: Dashboard, name: str) -> None:
    """Through the steps of the wizard; the only network is chosen already."""
    dashboard.open("/project/instances/")
    dashboard.click(By.ID, "instances__action_launch-ng")
    dashboard.wait(expected.element_to_be_clickable((By.ID, "name"))).send_keys(name)
    for choice in ("busybox", "c1.tiny"):
        dashboard.click(By.CSS_SELECTOR, ".ng-wizard button.next")
        dashboard.click(
            By.XPATH, "//div[contains(@class, 'step') and not(contains(@class, 'ng-hide'))]"
            "//div[contains(@class, 'transfer-available')]"
            f"//tr[td[normalize-space()='{choice}']]//button")
    dashboard.picture("launch-dialog")
    dashboard.click(By.CSS_SELECTOR, ".ng-wizard button.finish")


def test_life_of_a_server_by_the_dashboard(world: World, dashboard: Dashboard) -> None:
    name = "by-the-dialog"
    launch(dashboard, name)
    server = eventually("the launch", PAGE_SECONDS,
                        lambda: world.api.compute.find_server(name))
    world.undo.callback(world.delete, server)
    row = f"tr[data-object-id='{server.id}']"
    dashboard.wait_text(By.CSS_SELECTOR, row, "Active")
    dashboard.picture("active")

    eventually("the guest's last word", PAGE_SECONDS,
               lambda: "busybox guest: ready" in world.console(server))
    dashboard.open(f"/project/instances/{server.id}/?tab=instance_details__log")
    dashboard.wait_text(By.CSS_SELECTOR, "pre.logs", "busybox guest: ready")
    dashboard.picture("log")

    dashboard.open(f"/project/instances/{server.id}/serial")
    dashboard.wait_text(By.CSS_SELECTOR, "serial-console", "Status: Open")
    dashboard.find(By.CSS_SELECTOR, ".terminal")
    # A guest without cloud-init has the name that nova's driver gave it.
    dashboard.browser.switch_to.active_element.send_keys("uname -n", Keys.ENTER)
    dashboard.wait_text(By.CSS_SELECTOR, ".terminal", "instance-")
    dashboard.picture("serial-console")

    dashboard.open("/project/instances/")
    dashboard.click(By.CSS_SELECTOR, f"{row} .dropdown-toggle")
    dashboard.click(By.CSS_SELECTOR, f"{row} [id$='action_delete']")
    dashboard.click(By.CSS_SELECTOR, ".modal-footer .btn-primary, .modal-footer .btn-danger")
    world.api.compute.wait_for_delete(server, interval=0.5, wait=PAGE_SECONDS)
