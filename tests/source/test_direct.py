"""Code that is in the process already, and torch.compile of the original."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from tests.source.repos import FUNCTION_SLOT, LAYER_SLOT, Identity, identity
from twinkle_tune.errors import SignatureError, SourceError
from twinkle_tune.slot import Slot, SlotKind
from twinkle_tune.source.compiled import CompileSource
from twinkle_tune.source.direct import ImplSource, OriginalSource, RepoSource


class Doubled(nn.Module):
    """A layer that doubles."""

    def forward(self, x: Any) -> Any:
        """Twice x."""
        return x * 2


def tripled(x: Any) -> Any:
    """Three times x."""
    return x * 3


class Repo:
    """A repo object."""

    def __init__(self, content: Any) -> None:
        self.content = content

    def load(self) -> Any:
        """The content, raised if it is an error."""
        if isinstance(self.content, Exception):
            raise self.content
        return self.content


def test_original_is_itself() -> None:
    """The original's source gives the original, and a digest of its code."""
    source = OriginalSource()
    assert source.load(LAYER_SLOT, Identity.forward).call is Identity.forward
    assert source.digest(LAYER_SLOT, Identity.forward) != source.digest(LAYER_SLOT, Doubled.forward)


@pytest.mark.parametrize("kind", ["impl", "repo"])
def test_layers_and_functions(kind: str) -> None:
    """A class, and a function of the module, serve as a layer; a function and a module class as a function."""

    def source(content: Any) -> ImplSource | RepoSource:
        return ImplSource(impl=content) if kind == "impl" else RepoSource(repo=Repo(content))

    module, ones = Identity(), torch.ones(1)
    assert source(Doubled).load(LAYER_SLOT, Identity.forward).call(module, ones).item() == 2.0
    assert source(lambda self, x: x * 5).load(LAYER_SLOT, Identity.forward).call(module, ones).item() == 5.0
    assert source(tripled).load(FUNCTION_SLOT, identity).call(2) == 6
    assert source(Doubled).load(FUNCTION_SLOT, identity).call(2) == 4
    assert source(Doubled).digest(LAYER_SLOT, identity) != source(tripled).digest(LAYER_SLOT, identity)


def test_requirement_that_is_missing() -> None:
    """A candidate that cannot be used here says why when it is loaded."""
    source = ImplSource(impl=Doubled, requires=lambda: "needs a CUDA device")
    with pytest.raises(SourceError, match="needs a CUDA device"):
        source.load(LAYER_SLOT, Identity.forward)


def test_repo_that_raises() -> None:
    """Whatever a repo's load() raises is told as its failure."""
    source = RepoSource(repo=Repo(OSError("disk on fire")))
    with pytest.raises(SourceError, match=r"repo object .*: load\(\) raised OSError: disk on fire; call its load"):
        source.load(FUNCTION_SLOT, identity)


def _with_option(x: Any, *, scale: float = 1.0) -> Any:
    return x * scale


def _with_other_option(x: Any, *, factor: float = 1.0) -> Any:
    return x * factor


def _needs_option(x: Any, *, scale: float) -> Any:
    return x * scale


def _named_otherwise(hidden: Any, *, scale: float = 1.0) -> Any:
    return hidden * scale


def _takes_anything(*args: Any, **kwargs: Any) -> Any:
    return args[0]


SLOT = Slot(name="f", kind=SlotKind.FUNCTION, target=f"{__name__}:_with_option")


@pytest.mark.parametrize("fits", [_with_option, _named_otherwise, _takes_anything, torch.nn.Identity])
def test_signatures_that_fit(fits: Any) -> None:
    """Positional parameters may have other names, and whoever takes anything fits."""
    original = _with_option if fits is not torch.nn.Identity else identity
    assert ImplSource(impl=fits).load(SLOT, original).call(2.0) == 2.0


@pytest.mark.parametrize("unfit", [_with_other_option, _needs_option, lambda x: x, lambda x, scale=1.0: x])
def test_signatures_that_do_not_fit(unfit: Any) -> None:
    """Another form, a keyword of another name and a default that is missing are refused."""
    with pytest.raises(SignatureError, match=r"its signature is .* expected that of .*:_with_option, \(x, \*, scale"):
        ImplSource(impl=unfit).load(SLOT, _with_option)


def test_class_that_wants_arguments() -> None:
    """A module class whose constructor wants arguments is no function."""
    with pytest.raises(SignatureError, match=r"its constructor takes arguments \(.*in_features.*\), expected none"):
        ImplSource(impl=nn.Linear).load(FUNCTION_SLOT, identity)


def test_module_instance_is_no_layer() -> None:
    """An instance in the place of a class is refused."""
    with pytest.raises(SignatureError, match=r"got Doubled, expected an nn.Module class; pass the class itself"):
        ImplSource(impl=Doubled()).load(LAYER_SLOT, Identity.forward)


def test_compile_runs_the_original() -> None:
    """torch.compile's candidate computes what the original does, is made per shape, and follows its code."""
    source = CompileSource()
    with torch.compiler.set_stance("force_eager"):
        loaded = source.load(LAYER_SLOT, Doubled.forward)
        assert loaded.call(Identity(), torch.ones(1)).item() == 2.0
    assert loaded.per_shape
    assert source.digest(LAYER_SLOT, Doubled.forward) != source.digest(LAYER_SLOT, Identity.forward)
    assert source.digest(LAYER_SLOT, Doubled.forward) == CompileSource().digest(LAYER_SLOT, Doubled.forward)


def test_members_that_others_add_to_every_module(monkeypatch: pytest.MonkeyPatch) -> None:
    """What another library adds to nn.Module itself is no member of the kernel's own."""
    monkeypatch.setattr(nn.Module, "added_by_another", lambda self: None, raising=False)
    assert ImplSource(impl=Doubled).load(LAYER_SLOT, Identity.forward).call is Doubled.forward


def test_a_wrapped_package_s_version_is_part_of_the_digest(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another version of the package that an implementation calls by name gives another digest."""
    source = ImplSource(impl=torch.relu, kind="liger", package="liger-kernel")
    slot = Slot(name="s", kind=SlotKind.FUNCTION, target="m:f")
    before = source.digest(slot, torch.relu)
    monkeypatch.setattr("twinkle_tune.source.direct.package_version", lambda name: f"{name} 99")
    assert source.digest(slot, torch.relu) != before
