"""The package that the book *mambaviz* runs on: models, scans, explorables."""

__version__ = "0.1.0"
