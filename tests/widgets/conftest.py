"""What the tests of explorables in a browser share."""

import pytest

from tests.browsing import page_with


@pytest.fixture
def show(browser):
    """Open a page with an explorable; its errors fail the test."""
    contexts = []

    def open_page(widget, mode="light", **options):
        context = browser.new_context(**options)
        contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: pytest.fail(str(error)))
        page.set_content(page_with(widget, mode=mode))
        return page

    yield open_page
    for context in contexts:
        context.close()
