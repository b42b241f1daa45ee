"""Points 1 and 7 for a run as a whole: nesting, which gradients exist, what it changed, whose memory it uses."""

from __future__ import annotations

from collections.abc import Iterator

from twinkle_tune.parity.form import same_bits
from twinkle_tune.parity.run import Run, share
from twinkle_tune.parity.verdict import Reject

_AFTER = " after the call"


def misconduct(right: Run, run: Run) -> Reject | None:
    """What differs between the original's run and a candidate's apart from values; None for nothing."""
    if run.form != right.form:
        return _form("output", f"the output is {run.form}, expected {right.form}")
    if right.graded and not run.graded:
        return _form(
            min(right.graded),
            "no output carries a gradient: your kernel has no backward; wrap it in torch.autograd.Function, or set "
            "has_backward = False to keep it out of training",
        )
    for name in sorted(right.graded ^ run.graded):
        return _form(
            name,
            f"{name} {'carries no' if name in right.graded else 'carries a'} gradient, unlike the original's",
        )
    missing = {name for name, gradient in right.gradients.items() if gradient is not None}
    present = {name for name, gradient in run.gradients.items() if gradient is not None}
    for name in sorted(missing ^ present):
        return _form(name, f"{name} is {'None' if name in missing else 'not None'}, unlike the original's")
    for name in sorted(run.changed.keys() - right.changed.keys()):
        return _form(name, f"{name.removesuffix(_AFTER)} is changed by the call; the original leaves it alone")
    for name in sorted(right.changed.keys() - run.changed.keys()):
        return _form(name, f"{name.removesuffix(_AFTER)} is not changed by the call, which the original does")
    return _misplaced(right, run)


def reused(first: Run, again: Run) -> frozenset[str]:
    """Outputs of a second call that lie where the first call's still are: the caller of the first loses them."""
    return frozenset(
        name for name, tensor in again.outputs.items() if name in first.outputs and share(tensor, first.outputs[name])
    )


def overwriting(first: Run, again: Run, allowed: frozenset[str]) -> Reject | None:
    """Point 7: the second call must not write over the first one's outputs, unless the original does."""
    for name in sorted(reused(first, again) - allowed):
        reason = f"{name} of a second call lies in the memory of the first call's, which is lost by that"
        return Reject(point=7, tensor=name, error=1.0, limit=0.0, reason=reason, where="the whole tensor")
    return None


def same_results(first: Run, second: Run) -> bool:
    """Whether two runs gave the same bits everywhere."""
    a, b = first.tensors, second.tensors
    return a.keys() == b.keys() and all(same_bits(a[name], b[name]) for name in a)


def remarks(right: Run, run: Run) -> Iterator[str]:
    """What refuses nothing and is worth a note."""
    for name, tensor in run.outputs.items():
        if name in right.outputs and right.outputs[name].is_contiguous() and not tensor.is_contiguous():
            yield f"{name} is not contiguous (strides {list(tensor.stride())}), the original's is"


def _misplaced(right: Run, run: Run) -> Reject | None:
    for output, leaf in sorted(run.aliases - right.aliases):
        return _form(
            output,
            f"{output} shares memory with {leaf}, which the original's does not: what is written into one later "
            "would change the other",
        )
    for output, leaf in sorted(right.aliases - run.aliases):
        if f"{leaf}{_AFTER}" in right.changed:
            return _form(output, f"{output} is a copy; the original changes {leaf} and returns that itself")
    return None


def _form(tensor: str, reason: str) -> Reject:
    return Reject(point=1, tensor=tensor, error=1.0, limit=0.0, reason=reason)
