"""Imports a module from another file's text, in every process that finds this on its path: see `benchmarks.mutants`.

`PYASD_MUTANT` is the module's name, its own file, and the file with the text, with line breaks between them.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import importlib.util
import os
import sys
from collections.abc import Sequence
from types import CodeType, ModuleType


class Mutated(importlib.machinery.SourceFileLoader):
    """Loads a module from another text, under its own path."""

    def __init__(self, name: str, path: str, text: str) -> None:
        super().__init__(name, path)
        self.text = text

    def get_code(self, fullname: str) -> CodeType:
        """Compile the text; what Python has cached is of the module's own."""
        with open(self.text, encoding="utf-8") as file:
            code: CodeType = compile(file.read(), self.path, "exec")
        return code


class Finder(importlib.abc.MetaPathFinder):
    """Finds that one module."""

    def __init__(self, name: str, path: str, text: str) -> None:
        self.name, self.loader = name, Mutated(name, path, text)

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """Return the module's spec, or leave others to the other finders."""
        if fullname != self.name:
            return None
        return importlib.util.spec_from_file_location(fullname, self.loader.path, loader=self.loader)


if "PYASD_MUTANT" in os.environ:
    sys.meta_path.insert(0, Finder(*os.environ["PYASD_MUTANT"].split("\n")))
