"""The guided run, with a section for each part of the library; `_sections` lists them."""

from jsoftmax.demo._command import main

__all__ = ["main"]
