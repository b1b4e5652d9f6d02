"""Importing the large libraries, as late and as cheaply as can be: it is most of what a start costs."""

import gc
import importlib
from types import ModuleType


def load(module: str) -> ModuleType:
    """Import a module without looking for garbage meanwhile: importing makes none, and looking is a tenth of it."""
    gc.disable()
    try:
        return importlib.import_module(module)
    finally:
        gc.freeze()  # no later collection has to look at it again
        gc.enable()
