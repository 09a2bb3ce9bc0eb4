"""A chapter for its tests; a test module names its own as ``CHAPTER``."""

import pytest

from tests.chapters import reading


@pytest.fixture(scope="module")
def chapter(request):
    return request.module.CHAPTER


@pytest.fixture(scope="module")
def source(chapter):
    return reading.read(chapter)


@pytest.fixture(scope="module")
def executed(chapter):
    """The chapter with its outputs; a raising cell fails its tests."""
    return reading.execute(chapter)


@pytest.fixture(scope="module")
def text(source):
    return reading.text_of(source)


@pytest.fixture(scope="module")
def words(text):
    """The text without its line breaks."""
    return " ".join(text.split())
