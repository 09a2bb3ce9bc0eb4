"""The Sphinx side of the book: extension, static host, notebooks, wheel."""

from mambaviz.book.extension import setup

__all__ = ["setup"]
