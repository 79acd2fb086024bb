"""Empty modules in place of packages that Crossbar imports and this router does not use.

At its start, Crossbar imports libraries for Ethereum markets, database tables and Tor. In each of
its two processes (controller, worker) they cost 1.3 s of processor time and 60 MiB of memory, and
no configuration switches them off.
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
    """A module whose every name is a class that raises when it is called."""

    def __getattr__(self, name: str) -> type:
        if name.startswith("__"):
            raise AttributeError(name)

        def refuse(*_: Any, **__: Any) -> None:
            raise NotImplementedError(f"this router runs without {self.__name__}.{name}")

        return type(name, (), {"__init__": refuse})


class Finder(MetaPathFinder, Loader):
    """Finds these packages, and every module within them."""

    def find_spec(self, fullname: str, path: object, target: object = None) -> ModuleSpec | None:
        """Return an empty package."""
        if any(f"{fullname}.".startswith(f"{name}.") for name in PACKAGES):
            return ModuleSpec(fullname, self, is_package=True)
        return None

    def create_module(self, spec: ModuleSpec) -> Absent:
        """Return an empty module."""
        return Absent(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        """Do nothing: the module is empty."""


sys.meta_path.insert(0, Finder())
