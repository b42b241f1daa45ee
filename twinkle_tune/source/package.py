"""Code from a folder on this machine: a plain Python package, or a repo in the layout of the kernels package."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from twinkle_tune.errors import SourceError
from twinkle_tune.slot import Implementation, Slot
from twinkle_tune.source.digest import digest_folder
from twinkle_tune.source.fit import implementation_of
from twinkle_tune.source.fresh import PREFIX, FromSource, find_inside


@dataclass(frozen=True, slots=True, kw_only=True)
class PackageSource:
    """A layer or function of a plain Python package: a folder with ``__init__.py`` and, for layers, ``layers.py``.

    The package is imported under a name that holds a hash of its files, so that two versions of it can live in
    one process. Inside it, imports of its own modules must be relative.

    Attributes:
        repo_path: the folder that holds the package's folder (or the package's folder itself).
        package_name: the package.
        name: the layer or function in it.
    """

    repo_path: Path
    package_name: str
    name: str
    kind: str = "local"

    def load(self, slot: Slot, original: Callable[..., Any]) -> Implementation:
        """Import the package and take the layer or function out of it, checked by form."""
        folder = self._folder()
        what = f"{slot.kind} {self.name} of {folder}"
        package = _import_folder(folder, self.package_name)
        return implementation_of(find_in(package, self.name, slot, what), slot, original, what)

    def digest(self, slot: Slot, original: Callable[..., Any]) -> str:
        """Digest of every file of the package."""
        return digest_folder(self._folder())

    def _folder(self) -> Path:
        root = self.repo_path.expanduser()
        if not root.is_dir():
            raise SourceError(
                f"repo_path: got {self.repo_path}, which is no folder; expected the folder that holds the package "
                f"{self.package_name!r}; check the path"
            )
        folder = root / self.package_name
        if not folder.is_dir() and root.resolve().name == self.package_name:
            folder = root
        if not (folder / "__init__.py").is_file():
            packages = sorted(p.parent.name for p in root.glob("*/__init__.py"))
            raise SourceError(
                f"package_name: got {self.package_name!r}, but {folder}/__init__.py does not exist; "
                f"packages in {root}: {', '.join(packages) or 'none'}; check package_name"
            )
        return folder.resolve()


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalRepoSource:
    """A layer or function of a local repo in the layout of the ``kernels`` package (``build/<variant>/...``)."""

    repo_path: Path
    name: str
    kind: str = "local"

    def load(self, slot: Slot, original: Callable[..., Any]) -> Implementation:
        """Load the repo's variant for this machine through ``kernels`` and take the layer or function out of it."""
        what = f"{slot.kind} {self.name} of {self.repo_path}"
        return implementation_of(find_in(self._kernel(), self.name, slot, what), slot, original, what)

    def digest(self, slot: Slot, original: Callable[..., Any]) -> str:
        """Digest of every file of the repo."""
        return digest_folder(self._root())

    def _root(self) -> Path:
        root = self.repo_path.expanduser()
        if not root.is_dir():
            raise SourceError(
                f"repo_path: got {self.repo_path}, which is no folder; expected a kernel repo (build/<variant>/...), "
                "or pass package_name as well for a plain Python package"
            )
        return root

    def _kernel(self) -> ModuleType:
        root = self._root()
        try:
            from kernels import get_local_kernel
        except ImportError as error:
            raise SourceError(f"{root}: a local kernel repo needs the kernels package; pip install kernels") from error
        # The client raises errors of many kinds for a repo that does not fit; all mean that it cannot be had.
        try:
            kernel: ModuleType = get_local_kernel(root)
        except Exception as error:
            raise SourceError(
                f"{root}: the kernels package cannot load it ({type(error).__name__}: {error}); expected "
                "build/<variant>/ with metadata.json, or pass package_name as well for a plain Python package"
            ) from error
        return kernel


def find_in(package: ModuleType, name: str, slot: Slot, what: str) -> object:
    """A layer (from ``package.layers``, else the package) or a function (from the package, else its layers).

    Raises:
        SourceError: it is not there; the message lists what is.
    """
    layers = getattr(package, "layers", None)
    if layers is None and getattr(package, "__path__", None) and importlib.util.find_spec(f"{package.__name__}.layers"):
        layers = _import_layers(package)
    places = [place for place in (layers, package) if isinstance(place, ModuleType)]
    if not slot.kind.takes_module:
        places.reverse()
    for place in places:
        found = getattr(place, name, None)
        if found is not None:
            return found
    offered = sorted({n for place in places for n, v in vars(place).items() if callable(v) and not n.startswith("_")})
    raise SourceError(f"{what}: there is no {name!r}; it offers {', '.join(offered) or 'nothing'}; check the name")


def _import_layers(package: ModuleType) -> ModuleType:
    try:
        return importlib.import_module(f"{package.__name__}.layers")
    except Exception as error:
        raise SourceError(
            f"{package.__name__}: importing its layers raised {type(error).__name__}: {error}; "
            "import them alone to see why"
        ) from error


def _import_folder(folder: Path, package_name: str) -> ModuleType:
    name = f"{PREFIX}{package_name}_{digest_folder(folder)}"
    if name in sys.modules:
        return sys.modules[name]
    find_inside()
    place = folder / "__init__.py"
    loader = FromSource(name, str(place))
    spec = importlib.util.spec_from_file_location(name, place, loader=loader, submodule_search_locations=[str(folder)])
    # A loader that is given is the spec's.
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        for loaded in [n for n in sys.modules if n == name or n.startswith(f"{name}.")]:
            del sys.modules[loaded]
        raise SourceError(
            f"{folder}: importing it raised {type(error).__name__}: {error}; import the package alone to see why "
            "(imports of its own modules must be relative)"
        ) from error
    return module
