"""A web browser for tests: Debian's Chromium, headless, which finds only names that a test gives.

``.ci/run`` installs it. Without it the tests are skipped, or fail where ``CI`` is set.
"""

import os
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from tempfile import TemporaryDirectory

import pytest
from playwright.async_api import Browser, async_playwright


@asynccontextmanager
async def chromium(*options: str, names: str = "") -> AsyncIterator[Browser]:
    """Start Chromium with command-line options; ``names`` is a pattern of hosts at 127.0.0.1.

    No other name is looked up, and no request leaves this machine.
    """
    path = shutil.which("chromium")
    if path is None:
        missing = "chromium is not there: install Debian's package of this name"
        if os.environ.get("CI") == "true":
            pytest.fail(missing)
        pytest.skip(missing)
    found = f"MAP {names} 127.0.0.1, " if names else ""
    rules = f"--host-resolver-rules={found}MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"
    with TemporaryDirectory() as home:
        async with async_playwright() as playwright:
            browser = await playwright.chromium.launch(
                executable_path=path, args=[rules, *options], env={**os.environ, "HOME": home}
            )
            try:
                yield browser
            finally:
                await browser.close()
