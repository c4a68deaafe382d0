from __future__ import annotations

import sys

import numpy as np
import pytest

import bpttcheck
from bpttcheck import Verdict
from bpttcheck.adapt import from_torch
from bpttcheck.adapt.torch_function import aliases_of, with_parameters
from bpttcheck.errors import ContractError

pytestmark = pytest.mark.usefixtures("as_found")

torch = pytest.importorskip("torch", reason="torch is not installed")

Function = torch.autograd.Function
SIGNATURE = "x: T N D, h: N H, W: H D, U: H H -> y: T N H, last: N H"


class Right(Function):
    """An Elman network, its states and its last state."""

    @staticmethod
    def forward(ctx, x, h, W, U):
        hs = [h]
        for x_t in x:
            hs.append(torch.tanh(x_t @ W.T + hs[-1] @ U.T))
        ctx.save_for_backward(x, W, U, *hs)
        return torch.stack(hs[1:]), hs[-1].clone()

    @staticmethod
    def backward(ctx, d_y, d_last):
        x, W, U, *hs = ctx.saved_tensors
        d_x, d_W, d_U, d_h = torch.zeros_like(x), torch.zeros_like(W), torch.zeros_like(U), d_last
        for t in reversed(range(len(x))):
            d_pre = (d_h + d_y[t]) * (1 - hs[t + 1] ** 2)
            d_x[t], d_h = d_pre @ W, d_pre @ U
            d_W, d_U = d_W + d_pre.T @ x[t], d_U + d_pre.T @ hs[t]
        return d_x, d_h, d_W, d_U


def plain(x, h, W, U):
    ys = []
    for x_t in x:
        h = torch.tanh(x_t @ W.T + h @ U.T)
        ys.append(h)
    return torch.stack(ys), h


class Transposed(Right):
    @staticmethod
    def backward(ctx, d_y, d_last):
        d_x, d_h, d_W, d_U = Right.backward(ctx, d_y, d_last)
        return d_x, d_h, d_W, d_U.T


class NoneForU(Right):
    @staticmethod
    def backward(ctx, d_y, d_last):
        return *Right.backward(ctx, d_y, d_last)[:3], None


class AsksForW(Right):
    """Right where everything requires a gradient."""

    @staticmethod
    def backward(ctx, d_y, d_last):
        d_x, *rest = Right.backward(ctx, d_y, d_last)
        return d_x if ctx.needs_input_grad[2] else 0 * d_x, *rest


class ViewsItsCotangent(Right):
    @staticmethod
    def backward(ctx, d_y, d_last):
        return Right.backward(ctx, d_y.view(-1).view(d_y.shape), d_last)


class Undefined(Right):
    """Does not expect the None that it asked for."""

    @staticmethod
    def forward(ctx, *arguments):
        ctx.set_materialize_grads(False)
        return Right.forward(ctx, *arguments)


class OverwritesWhatItSaved(Right):
    @staticmethod
    def backward(ctx, d_y, d_last):
        found = Right.backward(ctx, d_y, d_last)
        ctx.saved_tensors[4].data.mul_(2)
        return found


def checked(subject, checks=("vjp",), **options):
    options = {"examples": 4, "raises": False, **options}
    return bpttcheck.check(subject, checks=checks, **options)


def test_a_right_function_passes_every_check():
    report = checked(from_torch(Right.apply, SIGNATURE, plain), None)
    assert report.passed, str(report)
    assert report.subject == "Right"  # not "apply"


def test_torch_judges_where_a_reference_is_given():
    report = checked(from_torch(Right.apply, SIGNATURE, plain), require=["torch"])
    assert report.passed
    assert report.checks[0].oracles["torch"] == 4
    notes = [*report.notes, *report.checks[0].notes]
    assert any("it traces no code of torch" in note for note in notes)


def test_torch_that_is_required_and_has_nothing_to_compare_with_is_inconclusive():
    report = checked(from_torch(Right.apply, SIGNATURE), require=["torch"], examples=2)
    assert report.verdict is Verdict.INCONCLUSIVE
    assert "torch required" in report.checks[0].reason


@pytest.mark.sampled(1)
@pytest.mark.parametrize("reference", [None, plain])
def test_a_wrong_gradient_is_found(reference):
    report = checked(from_torch(Transposed.apply, SIGNATURE, reference, name="wrong"))
    assert report.verdict is Verdict.FAILED
    assert report.findings[0].block == "d_U"


@pytest.mark.nightly
def test_a_hand_written_backward_pass_is_not_its_own_reference():
    for function in (Transposed, Right):
        report = checked(from_torch(function.apply, SIGNATURE, function.apply))
        assert report.passed == (function is Right)
        assert "torch" not in report.checks[0].oracles
        notes = [*report.notes, *report.checks[0].notes]
        assert any(f"hand-written backward pass of {function.__name__}" in n for n in notes)


def test_a_reference_that_is_another_function_is_not_believed():
    subject = from_torch(Right.apply, SIGNATURE, lambda x, h, W, U: plain(x, h, W, 2 * U))
    report = checked(subject)
    assert report.passed
    assert "torch" not in report.checks[0].oracles
    notes = [*report.notes, *report.checks[0].notes]
    assert any("differs from the native one" in note for note in notes)


@pytest.mark.parametrize(
    ("function", "says"),
    [
        (AsksForW, "another d_x where only the input of d_x requires a gradient"),
        (ViewsItsCotangent, "for a cotangent that is expanded"),
        (Undefined, "takes part in the loss"),
        (OverwritesWhatItSaved, "the second time over the same graph"),
    ],
)
def test_what_goes_wrong_in_training_alone_is_found(function, says):
    report = checked(from_torch(function.apply, SIGNATURE, name="bad"))
    assert report.verdict is Verdict.FAILED
    assert says in str([finding.message for finding in report.findings])


def test_a_gradient_that_is_none_is_not_checked_and_named():
    report = checked(from_torch(NoneForU.apply, SIGNATURE, plain))
    assert report.passed
    assert any("U" in one for one in report.unchecked)


class Owner(torch.nn.Module):
    def __init__(self, function, n_in=3, n_hidden=2):
        super().__init__()
        self.function = function
        self.W = torch.nn.Parameter(torch.zeros(n_hidden, n_in))
        self.inner = torch.nn.Linear(n_hidden, n_hidden, bias=False)

    def forward(self, x, h):
        return self.function(x, h, self.W, self.inner.weight)


@pytest.mark.parametrize("function", [Right, Transposed])
def test_the_parameters_of_a_module_are_inputs_by_their_names(function):
    text = "x: T N D, h: N H, W: H D -> y: T N H, last: N H where T in 2|3"
    subject = from_torch(Owner(function.apply), text, Owner(plain))
    assert str(subject.signature) == (
        "x: T N D, h: N H, W: H D, inner_weight: 2 2 -> y: T N H, last: N H "
        "where T in 2|3, H in 2, D in 3"
    )
    report = checked(subject, examples=8)
    assert report.passed == (function is Right)
    assert report.checks[0].oracles["torch"] == 7  # one is long, for differences alone
    assert [f.block for f in report.findings] == ([] if report.passed else ["d_inner_weight"])


class Residual(torch.nn.Module):
    """Runs where the last axis of x has the size of its weight, and there alone."""

    def __init__(self, width):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.randn(3 * width, width))

    def forward(self, x, h):
        a, b, c = (x @ self.weight.T).chunk(3, -1)
        return torch.tanh(a * b) + c * h


def test_sizes_that_the_parameters_of_a_module_fix_are_found_out():
    text = "x: N T H, h: N 1 1 -> y: N T H"
    subject = from_torch(Residual(4), text)
    assert subject.signature.allowed == {"H": (4,)}
    assert checked(subject).passed
    assert from_torch(Residual(4), f"{text} where H in 4").signature.allowed == {"H": (4,)}
    either = from_torch(Residual(4), "x: N T D, h: N 1 H -> y: N T H").signature.allowed
    assert either == {"D": (4,), "H": (4,)}
    scales = torch.nn.Module()
    scales.weight = torch.nn.Parameter(torch.ones(()))
    scales.forward = lambda x: torch.tanh(x)
    assert from_torch(scales, "x: N H -> y: N H").signature.allowed == {}


class Loss(Function):
    """A sum of squares, with a count that carries no gradient and whose axes nobody names."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        many = (x > 0).sum(0)
        ctx.mark_non_differentiable(many)
        return (x**2).sum(), many

    @staticmethod
    def backward(ctx, d, _):
        return 2 * d * ctx.saved_tensors[0]


class Embedded(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.E = torch.nn.Parameter(torch.ones(5, 3))

    def forward(self, tokens, keep, more):
        found = self.E[tokens] * keep[..., None] * more["w"]
        return {"y": found} if more["w"].shape == (3,) else [][0]


@pytest.mark.parametrize(
    ("text", "limits"),
    [
        ("tokens: T < 5, keep: T bool, more: {w: D} -> y: T D", " where D in 3"),
        ("tokens: T < 5, keep: T bool, more: {w: A B} -> y: T A", ""),  # runs with none
        ("tokens: T < 5, keep: T bool, more: {w: D}, E: V D -> y: T D", " where V in 5, D in 3"),
    ],
)
def test_what_fits_the_parameters_is_found_by_trial(text, limits):
    found = with_parameters(text, Embedded())
    assert found.partition(" where ")[2] == limits.removeprefix(" where ")
    assert ("E: 5 3" in found) == ("E: V D" not in text)


def test_of_too_many_trials_nothing_is_concluded(monkeypatch):
    monkeypatch.setattr("bpttcheck.adapt.torch_function._MOST_TRIALS", 1)
    found = with_parameters("tokens: T < 5, keep: T bool, more: {w: D} -> y: T D", Embedded())
    assert "where" not in found


def test_parameters_of_one_name_are_refused():
    module = torch.nn.Module()
    module.a = torch.nn.Linear(1, 1)
    module.a_bias = torch.nn.Parameter(torch.ones(1))
    with pytest.raises(
        ContractError, match=r"'a_bias' and 'a\.bias' would both be called 'a_bias'"
    ):
        aliases_of(module)


def test_outputs_that_are_detached_are_said():
    subject = from_torch(lambda x: {"y": x.detach() * 2}, "x: N -> y: N")
    report = bpttcheck.check(subject, examples=2, raises=False)
    assert not report.passed
    assert "no output carries a gradient of d_x: are all detached?" in str(report)


@pytest.mark.parametrize(("outputs", "named"), [("{y: N}", "no output"), ("z: N", "z")])
def test_outputs_in_a_dict_are_named_one_by_one(outputs, named):
    subject = from_torch(lambda x: {"y": 2 * x}, f"x: N -> {outputs}")
    report = bpttcheck.check(subject, examples=2, raises=False)
    (finding,) = report.findings
    assert finding.check == "contract"
    assert f"a dict of y was returned, but the signature names {named}; write" in finding.message


def test_a_loss_that_is_one_number_and_outputs_that_are_not_compared():
    report = checked(
        from_torch(Loss.apply, "x: N H -> loss:, many"), ("contract", "arguments", "vjp")
    )
    assert report.passed, str(report)
    assert not report.remarks


def test_structures_tokens_and_constants_are_handed_on():
    def function(tokens, weights, state, steps):
        h, c = state
        for _ in range(steps):
            h = torch.tanh(weights["E"][tokens] + h @ weights["U"])
        return {"h": h, "c": c * 2}

    text = (
        "tokens: N < V, weights: {E: V H, U: H H}, state: (N H, N H), steps = 2 -> h: N H, c: N H"
    )
    report = checked(from_torch(function, text, function), require=["torch"])
    assert report.passed, str(report)


def test_a_branch_at_its_threshold_is_left_to_the_differences():
    def function(x):
        return torch.relu(x - x.detach())

    at = (np.zeros((2, 2)),)
    report = checked(from_torch(function, "x: N D -> y: N D", function, at=at))
    assert "torch" not in report.checks[0].oracles


def test_what_is_no_function_is_refused():
    with pytest.raises(ContractError, match=r"function=3 \(type=int\), expected a function"):
        from_torch(3, SIGNATURE)
    with pytest.raises(ContractError, match="reference=<class"):
        from_torch(Right.apply, SIGNATURE, Owner)
    with pytest.raises(ContractError, match="names no outputs"):
        from_torch(Right.apply, "x: N D")
    with pytest.raises(ContractError, match="must have the parameters of what it is compared"):
        from_torch(Right.apply, SIGNATURE, torch.nn.Linear(2, 2))


def test_without_torch_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.nn", None)
    with pytest.raises(ContractError, match=r"from_torch needs torch.*pip install torch"):
        from_torch(Right.apply, SIGNATURE)


@pytest.mark.parametrize(
    ("device", "says"),
    [
        ("meta", "device='meta' .* is none that torch can use here"),
        ("abacus", "device='abacus'"),
        (None, "device=None"),
    ],
)
def test_a_device_that_cannot_be_used_is_refused(device, says):
    with pytest.raises(ContractError, match=says) as info:
        from_torch(Right.apply, SIGNATURE, device=device)
    assert info.value.item == "device"


def test_an_accelerator_that_is_not_there_is_refused(monkeypatch):
    def absent(*sizes, device):
        raise AssertionError("Torch not compiled with CUDA enabled")

    monkeypatch.setattr(torch, "zeros", absent)
    with pytest.raises(ContractError, match=r"device='cuda' .*not compiled with CUDA"):
        from_torch(Right.apply, SIGNATURE, device="cuda")


def test_every_array_and_module_goes_to_the_device(monkeypatch):
    asked = []
    own = torch.Tensor.to

    def to(self, *arguments, **options):
        asked.append(arguments[0])
        return own(self, *arguments, **options)

    monkeypatch.setattr(torch.Tensor, "to", to)
    text = "x: T N D, h: N H, W: H D -> y: T N H, last: N H where T in 2|3"
    report = checked(from_torch(Owner(Right.apply), text, device="cpu"), examples=2)
    assert report.passed
    assert asked.count(torch.device("cpu")) > 8


SMALL = "x: N D, W: H D -> y: N H"


class TwiceRight(Function):
    """tanh(x W), whose backward reads what autograd connects: inputs, and its own output."""

    @staticmethod
    def forward(ctx, x, W):
        y = torch.tanh(x @ W.T)
        ctx.save_for_backward(x, W, y)
        return y

    @staticmethod
    def backward(ctx, d_y):
        x, W, y = ctx.saved_tensors
        d_pre = d_y * (1 - y**2)
        return d_pre @ W, d_pre.T @ x


class SavesAnIntermediate(TwiceRight):
    """Right once: to whoever differentiates again, what forward computes on the way is constant."""

    @staticmethod
    def forward(ctx, x, W):
        pre = x @ W.T
        y = torch.tanh(pre)
        ctx.save_for_backward(x, W, pre)
        return y.clone()

    @staticmethod
    def backward(ctx, d_y):
        x, W, pre = ctx.saved_tensors
        d_pre = d_y * (1 - torch.tanh(pre) ** 2)
        return d_pre @ W, d_pre.T @ x


class Once(TwiceRight):
    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, d_y):
        return TwiceRight.backward(ctx, d_y)


def in_torch(x, W):
    return torch.tanh(x @ W.T)


@pytest.mark.nightly
def test_a_double_backward_that_is_right_passes():
    subject = from_torch(TwiceRight.apply, SMALL, in_torch, order=2)
    assert str(subject.signature) == "x: N D, W: H D, d_y: N H -> grad_x: N D, grad_W: H D"
    report = checked(subject, ("vjp", "linearity"), dtypes=["float64"], require=["torch"])
    assert report.passed, str(report)


@pytest.mark.sampled(1)
@pytest.mark.parametrize("reference", [in_torch, None])
def test_a_double_backward_that_reads_a_constant_is_found(reference):
    few = {"examples": 2, "dtypes": ["float64"]}
    once = checked(from_torch(SavesAnIntermediate.apply, SMALL, reference), **few)
    assert once.passed, str(once)
    twice = checked(from_torch(SavesAnIntermediate.apply, SMALL, reference, order=2), **few)
    assert twice.verdict is Verdict.FAILED
    assert {f.block for f in twice.findings} <= {"d_x", "d_W"}


def test_a_backward_for_one_derivative_says_so():
    report = checked(from_torch(Once.apply, SMALL, in_torch, order=2))
    assert report.verdict is Verdict.FAILED
    assert "marked @once_differentiable" in report.findings[0].message


@pytest.mark.nightly
def test_a_hand_written_double_backward_is_not_its_own_reference():
    class KeepsInputs(SavesAnIntermediate):
        """Nothing of it stands in the graph of its gradients."""

        @staticmethod
        def forward(ctx, x, W):
            ctx.save_for_backward(x, W, (x @ W.T).detach())
            return torch.tanh(x @ W.T)

    subject = from_torch(KeepsInputs.apply, SMALL, KeepsInputs.apply, order=2)
    report = checked(subject, examples=1, dtypes=["float64"])
    assert report.verdict is Verdict.FAILED
    notes = [*report.notes, *report.checks[0].notes]
    assert any("hand-written backward pass of KeepsInputs" in note for note in notes), notes


def test_the_parameters_of_a_module_have_second_derivatives():
    text = "x: T N D, h: N H, W: H D -> y: T N H, last: N H where T in 2"
    subject = from_torch(Owner(plain), text, Owner(plain), order=2)
    assert [item.name for item in subject.signature.outputs] == [
        "grad_x", "grad_h", "grad_W", "grad_inner_weight",
    ]  # fmt: skip
    report = checked(subject, examples=1, dtypes=["float64"], require=["torch"])
    assert report.passed, str(report)


def test_lists_of_arrays_have_no_second_order():
    with pytest.raises(ContractError, match="order=2 takes no lists of T arrays"):
        from_torch(lambda xs: sum(xs), "xs: T * [N D] -> y: N D", order=2)
    with pytest.raises(ContractError, match="order='2'"):
        from_torch(in_torch, SMALL, order="2")
