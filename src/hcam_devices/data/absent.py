"""Empty modules in place of packages that Crossbar imports and this router does not use.

Crossbar imports the libraries of its markets on Ethereum, of tables in a database and of Tor at its
start, in the controller and in the worker. They take 1.3 s of processor time and 60 MiB of memory
in each of the two, and no configuration switches them off.
"""

import sys
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

PACKAGES = {
    "aiohttp",
    "cfxdb",
    "crossbar.edge",
    "eth_abi",
    "eth_account",
    "eth_keys",
    "eth_typing",
    "numpy",
    "py_ecc",
    "txtorcon",
    "web3",
    "xbr",
    "yapf",
    "zlmdb",
}


class Absent(ModuleType):
    """A module in which every name stands for a class that cannot be used."""

    def __getattr__(self, name: str) -> type:
        if name.startswith("__"):
            raise AttributeError(name)

        def refuse(*_: Any, **__: Any) -> None:
            raise NotImplementedError(f"this router runs without {self.__name__}.{name}")

        return type(name, (), {"__init__": refuse})


class Finder(MetaPathFinder, Loader):
    """Finds these packages, and whatever is imported from within them."""

    def find_spec(self, fullname: str, path: object, target: object = None) -> ModuleSpec | None:
        """Return an empty package."""
        if any(f"{fullname}.".startswith(f"{name}.") for name in PACKAGES):
            return ModuleSpec(fullname, self, is_package=True)
        return None

    def create_module(self, spec: ModuleSpec) -> Absent:
        """Return an empty module."""
        return Absent(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        """Do nothing: there is nothing in it."""


sys.meta_path.insert(0, Finder())
