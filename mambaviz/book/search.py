"""The texts that the search page takes its excerpts from.

Sphinx's search fetches every page it has found to show an excerpt of it, which
a browser refuses from ``file://``. Here the texts of all pages stand in one
script, which only the search page loads; ``static/search.js`` answers from it.
"""

import json

from mambaviz.book.pages import Page


def search_texts(pages: list[Page], chapters: dict[str, str]) -> str:
    """The texts of all chapters as a classic script.

    Args:
        pages: all pages of the book.
        chapters: of each page that is a chapter, its address below the
            book's root and its name in the search index.
    """
    texts = {
        chapters[page.name]: page.text
        for page in pages
        if page.name in chapters
    }
    data = json.dumps(texts, ensure_ascii=False, indent=0, sort_keys=True)
    return f"const searchTexts = {data};\n"
