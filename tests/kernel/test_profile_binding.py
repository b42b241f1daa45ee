"""Applying a profile: each instance by what it was measured on, and nothing that does not hold any more."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tests.kernel.toys import (
    Model,
    Norm,
    added,
    function_contest,
    function_registry,
    inputs,
    layer_contest,
    norms,
    plus_one,
    plus_two,
    profile,
    registry,
)
from twinkle_tune.environment import current_environment
from twinkle_tune.errors import BindError, ModelError, ProfileError, StaleProfileError
from twinkle_tune.kernel import (
    Registry,
    kernelize_model,
    kernelize_report,
    kernelized,
    register_external_layer,
    register_layer_kernel,
    restore_model,
)
from twinkle_tune.kernel.reasons import reasons_text
from twinkle_tune.mode import Mode
from twinkle_tune.profile.schema import Contest, Profile
from twinkle_tune.slot import ORIGINAL

NARROW = ("layers.0.narrow", "layers.1.narrow")
WIDE = ("layers.0.wide", "layers.1.wide")
ONE, TWO = "impl:plus_one", "impl:plus_two"


def _known() -> Registry:
    return registry(plus_one, plus_two)


def _contests(model: nn.Module, known: Registry, *won: tuple[Sequence[str], int, str]) -> list[Contest]:
    return [layer_contest(model, paths, rows, winner, known) for paths, rows, winner in won]


def _shows(model: nn.Module, rows: int = 4) -> dict[str, float]:
    return {path: added(module, rows) for path, module in norms(model).items()}


def test_widths_have_their_own_winners() -> None:
    """Two norms of one class with different widths get different winners, each for all row counts."""
    model, known = Model(), _known()
    made = profile(_contests(model, known, (NARROW, 4, ONE), (WIDE, 4, TWO)))
    kernelize_model(model, profile=made, registry=known, use_fallback=False)
    for rows in (1, 4, 100):
        assert _shows(model, rows) == dict.fromkeys(NARROW, 1.0) | dict.fromkeys(WIDE, 2.0)
    assert str(kernelize_report(model)).splitlines()[:-1] == [
        "bound  Norm layers.0.narrow: impl:plus_one (rows: all)",
        "bound  Norm layers.0.wide: impl:plus_two (rows: all)",
        "bound  Norm layers.1.narrow: impl:plus_one (rows: all)",
        "bound  Norm layers.1.wide: impl:plus_two (rows: all)",
    ]


def test_shapes_are_dispatched() -> None:
    """An instance measured at several row counts runs each one's winner; what lies outside runs the original."""
    model, known = Model(), _known()
    won = [(NARROW, rows, winner) for rows, winner in ((2, ONE), (8, ONE), (16, TWO), (32, ORIGINAL), (64, TWO))]
    kernelize_model(model, profile=profile(_contests(model, known, *won)), registry=known, use_fallback=False)
    got = {rows: added(model.layers[1].narrow, rows) for rows in (1, 2, 5, 8, 12, 16, 24, 32, 64, 65)}
    assert got == {1: 0.0, 2: 1.0, 5: 1.0, 8: 1.0, 12: 0.0, 16: 2.0, 24: 0.0, 32: 0.0, 64: 2.0, 65: 0.0}
    assert _shows(model, 2)["layers.0.wide"] == 0.0
    (bound, _) = kernelize_report(model).bound
    assert (bound.candidate, bound.rows) == (
        "impl:plus_one, impl:plus_two",
        "2 to 8: impl:plus_one; 16: impl:plus_two; 64: impl:plus_two",
    )


def test_rows_of_any_shape() -> None:
    """Rows are all that stands before the last dimension: (2, 4, 8) is dispatched as (8, 8)."""
    model, known = Model(), _known()
    won = ((NARROW, 8, ONE), (NARROW, 16, ORIGINAL))
    kernelize_model(model, profile=profile(_contests(model, known, *won)), registry=known, use_fallback=False)
    norm, x = model.layers[0].narrow, inputs(8)
    with torch.no_grad():
        assert torch.equal(norm(x.view(2, 4, 8)).view(8, 8), plus_one(norm, x))
        assert torch.equal(norm(x=x), plus_one(norm, x))


def test_two_winners_that_rows_do_not_tell_apart() -> None:
    """Where one row count has two winners the original stays, and the report says why."""
    model, known = Model(), _known()
    contests = _contests(model, known, (NARROW, 8, ONE), (NARROW, 8, TWO))
    kernelize_model(model, profile=profile(contests), registry=known, use_fallback=False)
    assert set(_shows(model, 8).values()) == {0.0}
    assert {kept.reason for kept in kernelize_report(model).kept} == {
        "its calls have different winners that no row count tells apart"
    }


def test_compiled_winners_are_bound_to_what_was_measured() -> None:
    """A winner that is made per shape runs at the row counts that were measured and at no others."""
    model, known = Model(), _known()
    contests = _contests(model, known, (NARROW, 4, "compile"), (NARROW, 8, "compile"))
    kernelize_model(model, profile=profile(contests), registry=known, use_fallback=False)
    (bound, _) = kernelize_report(model).bound
    assert (bound.candidate, bound.rows) == ("compile", "4: compile; 8: compile")
    with torch.compiler.set_stance("force_eager"):
        assert added(model.layers[0].narrow, 4) == 0.0
    restore_model(model)


def test_profile_by_path(tmp_path: Path) -> None:
    """A profile is taken by its path too, and gives mode and device where they are not given."""
    model, known = Model(), _known()
    made = profile(_contests(model, known, (NARROW, 4, ONE)))
    kernelize_model(model, profile=made.save(tmp_path / "profile.json"), registry=known, use_fallback=False)
    assert _shows(model)["layers.0.narrow"] == 1.0
    with pytest.raises(ProfileError, match=r"none.json: cannot be read as a profile"):
        kernelize_model(model, profile=tmp_path / "none.json", registry=known)
    assert _shows(model)["layers.0.narrow"] == 1.0
    with pytest.raises(BindError, match=r"profile: got model=None, expected the model that was profiled"):
        kernelize_model(None, profile=made, registry=known)


def test_context_manager() -> None:
    """kernelized(...) binds a profile's winners for the length of a block."""
    model, known = Model(), _known()
    made = profile(_contests(model, known, (NARROW, 4, ONE)))
    output = model(inputs(4))
    with kernelized(model, profile=made, registry=known):
        assert _shows(model)["layers.1.narrow"] == 1.0
    assert torch.equal(model(inputs(4)), output)


def test_layers_beyond_a_shortened_stack() -> None:
    """Layers that the profiled stack lacked take the winners of their siblings, each of its own kind."""
    short, deep, known = Model(layers=1), Model(layers=4), _known()
    made = profile(_contests(short, known, (("layers.0.narrow",), 4, ONE), (("layers.0.wide",), 4, TWO)))
    kernelize_model(deep, profile=made, registry=known, use_fallback=False)
    assert _shows(deep) == {path: 1.0 if path.endswith("narrow") else 2.0 for path in norms(deep)}


def test_stack_without_a_name() -> None:
    """Layers of a stack that is the model itself are siblings too."""
    known = _known()
    made = profile([layer_contest(nn.Sequential(Norm(8)), ("0",), 4, ONE, known)])
    deep = nn.Sequential(Norm(8), Norm(8))
    kernelize_model(deep, profile=made, registry=known, use_fallback=False)
    assert _shows(deep) == {"0": 1.0, "1": 1.0}


def test_wrapped_model() -> None:
    """A model that was wrapped, or compiled, after it was profiled takes its winners; so does a part of it."""
    known = _known()
    made = profile(_contests(Model(), known, (NARROW, 4, ONE)))

    class Wrapper(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = Model()

    for model in (Wrapper(), torch.compile(Model(), backend="eager"), Model().layers):
        assert isinstance(model, nn.Module)
        kernelize_model(model, profile=made, registry=known, use_fallback=False)
        assert sorted(_shows(model).values()) == [0.0, 0.0, 1.0, 1.0]


def test_model_that_has_none_of_it() -> None:
    """A profile of another model binds nothing, and is told as such."""
    known = _known()
    made = profile(_contests(Model(), known, (NARROW, 4, ONE), (WIDE, 4, ORIGINAL)))
    other = nn.Sequential(Norm(8))
    message = r"the model has no tests.kernel.toys:Norm at layers.0.narrow, layers.1.narrow; is it the one that was"
    with pytest.warns(UserWarning, match=message) as caught:
        kernelize_model(other, profile=made, registry=known)
    assert len(caught) == 1
    assert "forward" not in other[0].__dict__
    assert not kernelize_report(other).bound


class Doubled(nn.Module):
    """A layer without parameters."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Twice x."""
        return x * 2


@pytest.mark.parametrize("several", [False, True])
def test_layer_whose_parameters_do_not_tell_the_dtype(several: bool) -> None:
    """A layer without parameters runs its winner for the dtype that was measured, and for no other."""
    model, known = nn.Sequential(Doubled()), Registry()
    register_external_layer(Doubled, "Doubled", registry=known)
    register_layer_kernel("Doubled", layer_impl=lambda self, x: x * 3, device="cpu", registry=known)
    name = known.layer("Doubled")[0].name
    won = [(4, name), *([(8, ORIGINAL)] if several else [])]
    made = profile(layer_contest(model, ("0",), rows, winner, known, slot="Doubled") for rows, winner in won)
    kernelize_model(model, profile=made, registry=known, use_fallback=False)
    assert [int(model(torch.ones(4, 8, dtype=d))[0, 0]) for d in (torch.float32, torch.float64)] == [3, 2]
    assert int(model(torch.ones(8, 8))[0, 0]) == (2 if several else 3)
    (bound,) = kernelize_report(model).bound
    assert bound.rows == (f"4: {name} (float32 alone)" if several else f"all: {name} (float32 alone)")


def test_originals_are_reported() -> None:
    """Where the original won nothing is bound, and the report says why it stayed."""
    model, known = Model(layers=1), _known()
    contests = _contests(model, known, (NARROW[:1], 4, ORIGINAL), (WIDE[:1], 4, TWO))
    kernelize_model(model, profile=profile(contests), registry=known, use_fallback=False)
    assert str(kernelize_report(model)).splitlines()[:-1] == [
        "bound  Norm layers.0.wide: impl:plus_two (rows: all)",
        "kept   Norm layers.0.narrow: no candidate was clearly faster",
    ]
    assert "forward" not in model.layers[0].narrow.__dict__


def test_reasons_that_differ_say_for_which_rows() -> None:
    """Two reasons of one layer each have their row counts; one reason for all has none."""
    model, known = Model(layers=1), _known()
    one, other = _contests(model, known, (NARROW[:1], 4, ORIGINAL), (NARROW[:1], 1, ORIGINAL))
    late = replace(other, selection=replace(other.selection, reason="not tried: the time budget was used up"))
    kernelize_model(model, profile=profile([one, late]), registry=known, use_fallback=False)
    assert str(kernelize_report(model)).splitlines() == [
        "kept   Norm layers.0.narrow: 4 rows: no candidate was clearly faster; "
        "1 row: not tried: the time budget was used up",
    ]
    assert reasons_text([(1, "a"), (16, "b"), (4, "a"), (1, "a")]) == "1 and 4 rows: a; 16 rows: b"
    assert reasons_text([(1, "a"), (16, "a")]) == "a"
    assert reasons_text([]) == ""


def test_the_report_says_where_the_winners_run() -> None:
    """With gradients off alone, it says; and there alone they run, while parameters require gradients."""
    model, known = Model(layers=1), _known()
    contests = _contests(model, known, (NARROW[:1], 4, ONE))
    kernelize_model(model, profile=profile(contests), registry=known, use_fallback=False)
    told = str(kernelize_report(model)).splitlines()[-1]
    assert "with gradients off: in torch.no_grad()" in told
    assert "runs the originals" in told
    norm, x = model.layers[0].narrow, torch.randn(4, model.layers[0].narrow.weight.shape[0])
    made = norm(x)
    assert made.requires_grad
    assert torch.equal(made, type(norm).forward(norm, x))
    with torch.no_grad():
        assert not torch.equal(norm(x), type(norm).forward(norm, x))
    restore_model(model)
    assert str(kernelize_report(model)) == "nothing bound"


def _changed_digest(candidate: str) -> Callable[[Profile], Profile]:
    def change(made: Profile) -> Profile:
        contests = []
        for contest in made.contests:
            trials = tuple(replace(t, digest="f" * 16) if t.candidate == candidate else t for t in contest.trials)
            contests.append(replace(contest, trials=trials))
        return replace(made, contests=tuple(contests))

    return change


def _other_gpu(made: Profile) -> Profile:
    return replace(made, environment=replace(made.environment, device_name="Another CPU", torch="1.0"))


WHOLE: dict[str, tuple[Callable[[Profile], Profile], dict[str, Any], str]] = {
    "environment": (
        _other_gpu,
        {},
        rf"made in another environment \(device_name: Another CPU then, {'.+'} now; torch: 1.0 then, .* now\); profile",
    ),
    "mode": (
        lambda p: p,
        {"mode": "train"},
        r"the profile is for mode inference, got mode train; profile the model in",
    ),
    "device": (
        lambda p: replace(p, device="cuda", environment=replace(p.environment, device="cuda")),
        {"device": "cpu"},
        r"the profile is for device cuda, got device cpu; profile the model on that device",
    ),
}
ENTRIES: dict[str, tuple[Callable[[Profile], Profile], str]] = {
    "the candidate's code": (
        _changed_digest(ONE),
        rf"Norm \({ONE}\): the code of '{ONE}' changed \(f{{16}} then, \w{{16}} now\); profile again",
    ),
    "the original's code": (
        _changed_digest(ORIGINAL),
        r"Norm \(impl:plus_one\): the code of 'original' changed \(f{16} then, \w{16} now\); profile again",
    ),
}


@pytest.mark.parametrize("case", [*WHOLE, *ENTRIES])
def test_stale_profiles(case: str) -> None:
    """What does not hold any more is not bound: a warning names what changed; without fallback it is an error."""
    change, options, message = WHOLE.get(case) or (ENTRIES[case][0], {}, ENTRIES[case][1])
    model, known = Model(), _known()
    made = change(profile(_contests(model, known, (NARROW, 4, ONE))))
    with pytest.warns(UserWarning, match=message) as caught:
        kernelize_model(model, profile=made, registry=known, **options)
    assert len(caught) == 1
    assert set(_shows(model).values()) == {0.0}
    report = kernelize_report(model)
    assert not report.bound
    assert any(kept.reason in str(caught[0].message) for kept in report.kept)
    assert not any("was faster" in kept.reason for kept in report.kept)
    with pytest.raises(StaleProfileError, match=message):
        kernelize_model(model, profile=made, registry=known, use_fallback=False, **options)


def test_stale_profile_of_this_device_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another number of threads is another environment on the CPU, another Python is not."""
    model, known = Model(), _known()
    made = profile(_contests(model, known, (NARROW, 4, ONE)))
    kernelize_model(model, profile=replace(made, environment=replace(made.environment, python="2.7")), registry=known)
    assert _shows(model)["layers.0.narrow"] == 1.0
    threads = current_environment("cpu").threads
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads + 1)
    with pytest.warns(UserWarning, match=rf"threads: {threads} then, {threads + 1} now"):
        kernelize_model(model, profile=made, registry=known)
    assert _shows(model)["layers.0.narrow"] == 0.0


def _to_double(model: Model) -> None:
    model.layers[0].narrow.double()


def _other_eps(model: Model) -> None:
    model.layers[0].narrow.eps = 1e-3


def _wider(model: Model) -> None:
    model.layers[0].narrow = Norm(9)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_to_double, r"layers.0.narrow: its settings changed \(weight: float32\[8\] then, float64\[8\] now\); profile"),
        (_other_eps, r"layers.0.narrow: its settings changed \(eps: 1e-06 then, 0.001 now\); profile again"),
        (_wider, r"layers.0.narrow: its settings changed \(weight: float32\[8\] then, float32\[9\] now\); profile"),
    ],
)
def test_settings_that_changed(change: Callable[[Model], None], message: str) -> None:
    """An instance whose settings changed keeps its original, and what changed is named; the others are bound."""
    model, known = Model(), _known()
    made = profile(_contests(model, known, (NARROW, 4, ONE)))
    change(model)
    with pytest.warns(UserWarning, match=rf"Norm \({ONE}\): {message}") as caught:
        kernelize_model(model, profile=made, registry=known)
    assert len(caught) == 1
    assert "forward" not in model.layers[0].narrow.__dict__
    assert added(model.layers[1].narrow, 4) == 1.0
    with pytest.raises(StaleProfileError, match=message):
        kernelize_model(model, profile=made, registry=known, use_fallback=False)


def test_weights_and_training_flags_are_no_settings() -> None:
    """Other values of the weights, frozen parameters and eval() do not make a profile stale."""
    model, known = Model(), _known()
    made = profile(_contests(model, known, (NARROW, 4, ONE)))
    with torch.no_grad():
        model.layers[0].narrow.weight.mul_(3)
    model.requires_grad_(False).eval()
    kernelize_model(model, profile=made, registry=known, use_fallback=False)
    assert _shows(model)["layers.0.narrow"] == 1.0


def test_candidate_that_is_not_registered() -> None:
    """A winner that nobody registered here is named; the rest of the profile is bound."""
    model, known = Model(), _known()
    made = profile(_contests(model, known, (NARROW, 4, TWO), (WIDE, 4, ONE)))
    only_one = registry(plus_one)
    message = rf"Norm \({TWO}\): no candidate '{TWO}' is registered for it here; register it, or profile again"
    with pytest.warns(UserWarning, match=message):
        kernelize_model(model, profile=made, registry=only_one)
    assert _shows(model) == dict.fromkeys(NARROW, 0.0) | dict.fromkeys(WIDE, 1.0)
    with pytest.raises(StaleProfileError, match=message):
        kernelize_model(model, profile=made, registry=only_one, use_fallback=False)
    assert _shows(model) == dict.fromkeys(NARROW, 0.0) | dict.fromkeys(WIDE, 1.0)


def test_candidate_for_another_mode() -> None:
    """A winner that is registered for another mode alone is as good as not registered."""
    model, known = Model(), _known()
    made = profile(_contests(model, known, (NARROW, 4, ONE)))
    with pytest.warns(UserWarning, match=rf"no candidate '{ONE}' is registered for it here"):
        kernelize_model(model, profile=made, registry=registry(plus_one, mode=Mode.COMPILE))
    assert set(_shows(model).values()) == {0.0}


def test_code_that_changed_under_the_same_name() -> None:
    """A candidate whose code is another now than when it was measured is not bound."""

    def made(add: int) -> Callable[..., Any]:
        def kernel(self: Norm, x: torch.Tensor) -> torch.Tensor:
            return Norm.forward(self, x) + add

        return kernel

    model, known = Model(), registry(made(1))
    name = known.layer("Norm")[0].name
    stale = profile(_contests(model, known, (NARROW, 4, name)))
    with pytest.warns(UserWarning, match=r"the code of 'impl:.*made.<locals>.kernel' changed"):
        kernelize_model(model, profile=stale, registry=registry(made(2)))
    assert set(_shows(model).values()) == {0.0}
    kernelize_model(model, profile=stale, registry=registry(made(1)), use_fallback=False)
    assert _shows(model)["layers.0.narrow"] == 1.0


def test_winner_that_cannot_be_loaded_any_more() -> None:
    """A winner that does not load keeps the original with what went wrong; other winners are bound."""

    class Backless(nn.Module):
        has_backward = False

        def forward(self, x: Any) -> Any:
            return x

    model, known = Model(), _known()
    register_layer_kernel("Norm", layer_impl=Backless, device="cpu", registry=known)
    name = known.layer("Norm")[-1].name
    made = replace(profile(_contests(model, known, (NARROW, 4, name), (WIDE, 4, TWO))), mode=Mode.TRAIN)
    with pytest.warns(UserWarning, match=r"it declares has_backward=False and the mode is train"):
        kernelize_model(model, profile=made, registry=known)
    assert _shows(model) == dict.fromkeys(NARROW, 0.0) | dict.fromkeys(WIDE, 2.0)


def test_part_of_an_instance_is_stale() -> None:
    """Where the winner of one row count does not hold, the others are bound and that one runs the original."""
    model, known = Model(), _known()
    made = profile(_contests(model, known, (NARROW, 4, ONE), (NARROW, 8, TWO)))
    with pytest.warns(UserWarning, match=rf"no candidate '{TWO}'"):
        kernelize_model(model, profile=made, registry=registry(plus_one))
    norm = model.layers[0].narrow
    assert [added(norm, rows) for rows in (4, 6, 8)] == [1.0, 0.0, 0.0]


def test_foreign_forward_is_kept() -> None:
    """An instance whose forward somebody else replaced is left alone; the report says so."""
    model, known = Model(), _known()
    made = profile(_contests(model, known, (NARROW, 4, ONE)))
    norm = model.layers[0].narrow

    def foreign(x: torch.Tensor) -> torch.Tensor:
        return x

    norm.forward = foreign
    kernelize_model(model, profile=made, registry=known)
    assert norm.forward is foreign
    assert added(model.layers[1].narrow, 4) == 1.0
    assert [(k.slot, k.reason) for k in kernelize_report(model).kept] == [
        ("Norm layers.0.narrow", "its forward was replaced on the instance by somebody else")
    ]


def test_binding_is_undone_when_a_profile_is_stale() -> None:
    """A stale profile leaves what was bound before only where it raises: with fallback the originals are back."""
    model, known = Model(), _known()
    made = profile(_contests(model, known, (NARROW, 4, ONE)))
    kernelize_model(model, profile=made, registry=known, use_fallback=False)
    with pytest.raises(StaleProfileError):
        kernelize_model(model, profile=_other_gpu(made), registry=known, use_fallback=False)
    assert _shows(model)["layers.0.narrow"] == 1.0
    with pytest.warns(UserWarning, match="another environment"):
        kernelize_model(model, profile=_other_gpu(made), registry=known)
    assert _shows(model)["layers.0.narrow"] == 0.0


TARGET = f"{__name__}:scaled"


def scaled(x: torch.Tensor, by: float = 2.0) -> torch.Tensor:
    """x scaled."""
    return x * by


def tripled(x: torch.Tensor, by: float = 2.0) -> torch.Tensor:
    """A kernel that shows."""
    return x * 3


def test_function_that_is_gone() -> None:
    """A function that does not exist any more is named; the layers of the profile are bound."""
    model, known = Model(), _known()
    functions = function_registry(__name__, "scaled", tripled)
    contest = function_contest(TARGET, scaled, (inputs(4),), "impl:tripled", functions)
    gone = replace(contest, slot=replace(contest.slot, target=f"{__name__}:gone"))
    made = profile([*_contests(model, known, (NARROW, 4, ONE)), gone])
    with pytest.warns(UserWarning, match=r"has no function slot '.*:gone', and none is registered"):
        kernelize_model(model, profile=made, registry=known)
    assert added(model.layers[0].narrow, 4) == 1.0


def test_stale_function() -> None:
    """A function whose winner's code changed keeps its original, with what changed in the warning."""
    known = function_registry(__name__, "scaled", tripled)
    contest = function_contest(TARGET, scaled, (inputs(4),), "impl:tripled", known)
    model = Model()
    made = _changed_digest("impl:tripled")(profile([contest]))
    with pytest.warns(UserWarning, match=r"scaled \(impl:tripled\): the code of 'impl:tripled' changed"):
        kernelize_model(model, profile=made, registry=known)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        kernelize_model(model, profile=profile([contest]), registry=known)
    assert [b.slot for b in kernelize_report(model).bound] == [f"{__name__}.scaled"]
    restore_model(model)


def test_function_whose_calls_cannot_be_told_apart() -> None:
    """A function that was called with other things than tensors and plain values keeps its original, and why."""
    known = function_registry(__name__, "scaled", tripled)
    contest = function_contest(TARGET, scaled, ([inputs(4)],), "impl:tripled", known)
    model = Model()
    kernelize_model(model, profile=profile([contest]), registry=known)
    assert [k.reason for k in kernelize_report(model).kept] == [
        "its arguments are not only tensors and plain values, so its calls cannot be told apart"
    ]


def test_what_is_no_profile_or_no_model_is_refused() -> None:
    """Before anything is looked at, with what was got and what is expected."""
    wrong: Any = 3
    with pytest.raises(ProfileError, match="profile: got a int, expected a path, 'hub:owner/name' or a Profile; "):
        kernelize_model(nn.Linear(2, 2), profile=wrong)
    wrong = "tiny"
    with pytest.raises(ModelError, match="model: got the name 'tiny', expected a torch module"):
        kernelize_model(wrong)
