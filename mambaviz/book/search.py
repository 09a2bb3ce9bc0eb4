"""The texts that the search page takes its excerpts from.

Sphinx's search fetches every page it has found to show an excerpt of it, which
a browser refuses from ``file://``. Here the texts of all pages stand in one
script, which only the search page loads; ``static/search.js`` answers from it.
"""

import json

from mambaviz.book.pages import Page


def search_texts(pages: list[Page], landing: str) -> str:
    """The texts of all chapters as a classic script.

    Args:
        pages: all pages of the book.
        landing: the name that the search index has for the landing page.
    """
    texts = {
        _index_name(page, landing): page.text for page in pages if page.text
    }
    data = json.dumps(texts, ensure_ascii=False, indent=0, sort_keys=True)
    return f"const searchTexts = {data};\n"


def _index_name(page: Page, landing: str) -> str:
    name = page.name.removesuffix(".html")
    return landing if name == "index" else name
