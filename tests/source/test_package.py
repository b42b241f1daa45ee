"""Code from a folder on this machine."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.source.repos import (
    FILES,
    FUNCTION_SLOT,
    LAYER_SLOT,
    LAYERS,
    Identity,
    identity,
    write_kernel_repo,
    write_package,
)
from twinkle_tune.errors import SignatureError, SourceError
from twinkle_tune.source.package import LocalRepoSource, PackageSource


@pytest.fixture(autouse=True)
def _clean_modules() -> Iterator[None]:
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if name.startswith(("_twinkle_tune_", "_stand_in_")):
            del sys.modules[name]


def _package(root: Path, name: str = "Double", package: str = "my_kernels") -> PackageSource:
    return PackageSource(repo_path=root, package_name=package, name=name)


def test_layer_of_a_package(tmp_path: Path) -> None:
    """A class of a plain package's layers becomes a forward that takes the original's instance first."""
    source = _package(write_package(tmp_path, "my_kernels"))
    loaded = source.load(LAYER_SLOT, Identity.forward)
    assert torch.equal(loaded.call(Identity(), torch.ones(2)), torch.full((2,), 2.0))
    assert (loaded.has_backward, loaded.can_torch_compile) == (True, True)


def test_claims_of_a_layer(tmp_path: Path) -> None:
    """A class's has_backward and can_torch_compile are read."""
    loaded = _package(write_package(tmp_path, "my_kernels"), "Untrained").load(LAYER_SLOT, Identity.forward)
    assert (loaded.has_backward, loaded.can_torch_compile) == (False, False)


def test_function_of_a_package(tmp_path: Path) -> None:
    """A function is found in the package, else in its layers."""
    files = {**FILES, "__init__.py": "from . import layers\ndef tripled(x):\n    return x * 3\n"}
    root = write_package(tmp_path, "my_kernels", files)
    assert _package(root, "tripled").load(FUNCTION_SLOT, identity).call(2) == 6
    assert _package(root, "doubled").load(FUNCTION_SLOT, identity).call(2) == 4


def test_repo_path_may_be_the_package(tmp_path: Path) -> None:
    """The path of the package's own folder serves as well as that of the folder around it."""
    inside = write_package(tmp_path, "my_kernels") / "my_kernels"
    assert _package(inside).digest(LAYER_SLOT, identity) == _package(tmp_path).digest(LAYER_SLOT, identity)


def test_layers_need_not_be_imported_by_the_package(tmp_path: Path) -> None:
    """layers.py is found where __init__.py is empty."""
    source = _package(write_package(tmp_path, "my_kernels", {**FILES, "__init__.py": ""}))
    assert torch.equal(source.load(LAYER_SLOT, Identity.forward).call(Identity(), torch.ones(1)), torch.full((1,), 2.0))


def test_two_versions_side_by_side(tmp_path: Path) -> None:
    """A package that changed on disk is another module: both versions run in one process, digests differ."""
    source = _package(write_package(tmp_path, "my_kernels"))
    first, digest = source.load(LAYER_SLOT, Identity.forward), source.digest(LAYER_SLOT, identity)
    assert first.call is source.load(LAYER_SLOT, Identity.forward).call
    write_package(tmp_path, "my_kernels", {"layers.py": LAYERS.replace("x * 2", "x * 3")})
    second = source.load(LAYER_SLOT, Identity.forward)
    module, ones = Identity(), torch.ones(1)
    assert [call(module, ones).item() for call in (first.call, second.call, first.call)] == [2.0, 3.0, 2.0]
    assert digest != source.digest(LAYER_SLOT, identity)


def test_digest_covers_every_file(tmp_path: Path) -> None:
    """A change of any file of the package changes its digest; another package beside it does not."""
    source = _package(write_package(tmp_path, "my_kernels"))
    before = source.digest(LAYER_SLOT, identity)
    write_package(tmp_path, "other_kernels")
    assert source.digest(LAYER_SLOT, identity) == before
    (tmp_path / "my_kernels" / "table.txt").write_text("1 2 3")
    assert source.digest(LAYER_SLOT, identity) != before


BAD_PATHS = {
    "no such folder": ("missing", "my_kernels", "Double", r"repo_path: got .*missing, which is no folder; expected"),
    "no such package": (
        ".",
        "your_kernels",
        "Double",
        r"package_name: got 'your_kernels', but .* does not exist; packages in .*: my_kernels, other_kernels; check",
    ),
    "no such layer": (
        ".",
        "my_kernels",
        "Triple",
        r"layer Triple of .*my_kernels: there is no 'Triple'; it offers Constructed, Double, .*; check the name",
    ),
}


@pytest.mark.parametrize("case", BAD_PATHS)
def test_bad_places(tmp_path: Path, case: str) -> None:
    """A wrong path, package or layer is an error that says what was looked for and what is there."""
    write_package(write_package(tmp_path, "my_kernels"), "other_kernels")
    path, package, name, message = BAD_PATHS[case]
    with pytest.raises(SourceError, match=message):
        _package(tmp_path / path, name, package).load(LAYER_SLOT, Identity.forward)


BAD_LAYERS = {
    "Constructed": r"Constructed of .*: it has its own constructor, expected none: .* read what is needed from self",
    "Membered": r"Membered of .*: it has members of its own \(factor, helper\), expected only forward: .* outside",
    "TwoInputs": r"its signature is \(self, x, y\), expected that of .*:Identity, \(self, x\); take the same",
    "Plain": r"Plain of .*: got a class that is no nn.Module; derive it from torch.nn.Module",
    "number": r"number of .*: got int, expected an nn.Module class; pass the class itself",
}


@pytest.mark.parametrize("name", BAD_LAYERS)
def test_bad_layers(tmp_path: Path, name: str) -> None:
    """A class that cannot run with the original's instance as self is refused by its form, with the way out."""
    with pytest.raises(SignatureError, match=BAD_LAYERS[name]):
        _package(write_package(tmp_path, "my_kernels"), name).load(LAYER_SLOT, Identity.forward)


BAD_FUNCTIONS = {
    "Constructed": None,
    "TwoInputs": r"its signature is \(x, y\), expected that of .*:identity, \(x\)",
    "number": r"number of .*: got int, expected a function or another callable",
}


@pytest.mark.parametrize("name", BAD_FUNCTIONS)
def test_functions_by_form(tmp_path: Path, name: str) -> None:
    """For a function a module class is made without arguments; what cannot be called like it is refused."""
    source, message = _package(write_package(tmp_path, "my_kernels"), name), BAD_FUNCTIONS[name]
    if message is None:
        assert source.load(FUNCTION_SLOT, identity).call(3) == 6
        return
    with pytest.raises(SignatureError, match=message):
        source.load(FUNCTION_SLOT, identity)


@pytest.mark.parametrize("file", ["__init__.py", "layers.py"])
@pytest.mark.parametrize("text", ["raise RuntimeError('no GPU')", "def broken(:"])
def test_package_that_cannot_be_imported(tmp_path: Path, file: str, text: str) -> None:
    """A package, or its layers, that raises on import is one SourceError with what it raised; nothing stays behind."""
    before = set(sys.modules)
    source = _package(write_package(tmp_path, "my_kernels", {**FILES, "__init__.py": "", file: text}))
    what = "RuntimeError: no GPU" if "raise" in text else "SyntaxError"
    with pytest.raises(SourceError, match=f"raised {what}.*to see why"):
        source.load(LAYER_SLOT, Identity.forward)
    assert not [n for n in set(sys.modules) - before if n.endswith(".layers")]
    if file == "__init__.py":
        assert set(sys.modules) == before


def test_kernel_repo(tmp_path: Path) -> None:
    """A local repo in the layout of the kernels package loads through it, layers and functions."""
    root = write_kernel_repo(tmp_path, "_stand_in_local")
    layer = LocalRepoSource(repo_path=root, name="Double").load(LAYER_SLOT, Identity.forward)
    assert layer.call(Identity(), torch.ones(1)).item() == 2.0
    assert LocalRepoSource(repo_path=root, name="doubled").load(FUNCTION_SLOT, identity).call(2) == 4


def test_kernel_repo_that_does_not_fit(tmp_path: Path) -> None:
    """A folder that is no kernel repo is refused with what was expected and the way out."""
    source = LocalRepoSource(repo_path=write_package(tmp_path, "my_kernels"), name="Double")
    with pytest.raises(SourceError, match=r"(?s)cannot load it .* expected build/<variant>/ .* or pass package_name"):
        source.load(LAYER_SLOT, Identity.forward)
    gone = LocalRepoSource(repo_path=tmp_path / "gone", name="Double")
    with pytest.raises(SourceError, match=r"repo_path: got .*gone, which is no folder"):
        gone.digest(LAYER_SLOT, identity)
