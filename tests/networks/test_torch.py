"""The same networks in torch: outputs, final states and every gradient."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from bpttcheck.cells import LSTM, Elman, GRUResetAfter
from bpttcheck.networks import Batch, Bidirectional, Network, Stack

torch = pytest.importorskip("torch", reason="torch is the peer that is compared with")

KINDS = {"RNN": Elman(), "LSTM": LSTM(), "GRU": GRUResetAfter()}
WEIGHTS = {"RNN": ("U", "W", "b"), "LSTM": ("W_ih", "W_hh", "b"), "GRU": ("W_ih", "W_hh", "b")}


def stack(kind, layers, directions):
    cell = KINDS[kind]
    return Stack([cell if directions == 1 else Bidirectional(cell)] * layers)


def heads(layers, directions):
    """Where a torch weight's name ends, and where a parameter's name here begins."""
    for layer in range(layers):
        if directions == 1:
            yield f"l{layer}", f"{layer}."
        else:
            yield f"l{layer}", f"{layer}.forward."
            yield f"l{layer}_reverse", f"{layer}.backward."


def in_torch(kind, layers, directions, params, n_in, n_hidden):
    module = getattr(torch.nn, kind)(
        n_in, n_hidden, layers, bidirectional=directions == 2, dtype=torch.float64
    )
    with torch.no_grad():
        for theirs, ours in heads(layers, directions):
            U, W, b = (torch.tensor(params[ours + name]) for name in WEIGHTS[kind])
            getattr(module, f"weight_ih_{theirs}").copy_(U)
            getattr(module, f"weight_hh_{theirs}").copy_(W)
            getattr(module, f"bias_ih_{theirs}").copy_(b)
            bias = getattr(module, f"bias_hh_{theirs}").zero_()
            if kind == "GRU":
                bias[2 * n_hidden :] = torch.tensor(params[ours + "b_hn"])
    return module


def gradients_in_torch(kind, layers, directions, module):
    out = {}
    for theirs, ours in heads(layers, directions):
        for name, weight in zip(WEIGHTS[kind], ("weight_ih", "weight_hh", "bias_ih"), strict=True):
            out[ours + name] = getattr(module, f"{weight}_{theirs}").grad.numpy()
        if kind == "GRU":
            bias = getattr(module, f"bias_hh_{theirs}").grad.numpy()
            out[ours + "b_hn"] = bias[2 * len(bias) // 3 :]
    return out


def to_torch_state(kind, directions, state):
    """``(L * D, B, H)``, of an LSTM two of them."""
    flat = [one for layer in state for one in (layer if directions == 2 else (layer,))]
    if kind == "LSTM":
        return tuple(
            torch.tensor(np.stack(part), requires_grad=True) for part in zip(*flat, strict=True)
        )
    return torch.tensor(np.stack(flat), requires_grad=True)


def from_torch_state(kind, directions, state):
    if kind == "LSTM":
        flat = [
            tuple(pair) for pair in zip(*(part.detach().numpy() for part in state), strict=True)
        ]
    else:
        flat = list(state.detach().numpy())
    if directions == 1:
        return tuple(flat)
    return tuple((flat[i], flat[i + 1]) for i in range(0, len(flat), 2))


def torch_side(kit, kind, layers, directions, p, lengths):
    n_hidden = p.d_ys.shape[-1] // directions
    module = in_torch(kind, layers, directions, p.params, p.xs.shape[-1], n_hidden)
    xs = torch.tensor(p.xs, requires_grad=True)
    state0 = to_torch_state(kind, directions, p.state0)
    given = xs
    if lengths is not None:
        pack = torch.nn.utils.rnn.pack_padded_sequence
        given = pack(xs, torch.tensor(lengths), enforce_sorted=False)
    ys, state_T = module(given, state0)
    if lengths is not None:
        ys, _ = torch.nn.utils.rnn.pad_packed_sequence(ys, total_length=len(p.xs))
    d_state_T = to_torch_state(kind, directions, p.d_state_T)
    parts = zip(tensors(d_state_T), tensors(state_T), strict=True)
    loss = (ys * torch.tensor(p.d_ys)).sum() + sum((d * s).sum() for d, s in parts)
    loss.backward()
    d_state0 = [leaf.grad for leaf in tensors(state0)]
    return kit.named(
        ys.detach().numpy(),
        from_torch_state(kind, directions, state_T),
        gradients_in_torch(kind, layers, directions, module),
        xs.grad.numpy(),
        from_torch_state(kind, directions, d_state0 if kind == "LSTM" else d_state0[0]),
    )


def tensors(state):
    return state if isinstance(state, tuple) else (state,)


@pytest.mark.sampled(12)
@pytest.mark.parametrize(
    ("kind", "layers", "directions"), list(itertools.product(KINDS, (1, 2, 3, 4), (1, 2)))
)
def test_outputs_states_and_gradients_are_those_of_torch(kit, kind, layers, directions):
    layer = stack(kind, layers, directions)
    for seed, masks in enumerate(("none", "lengths", "lengths")):
        p = kit.problem(layer, T=6, B=4, n_in=3, n_hidden=5, mask=masks, seed=seed)
        lengths = None if p.mask is None else p.mask.sum(axis=0)
        theirs = torch_side(kit, kind, layers, directions, p, lengths)
        kit.agree(kit.hand(layer, p), theirs)


def test_a_layer_that_is_not_flipped_is_told_from_torch(kit):
    layer = stack("LSTM", 2, 2)
    p = kit.problem(layer, T=6, B=4, n_in=3, n_hidden=5)
    theirs = torch_side(kit, "LSTM", 2, 2, p, None)
    d_xs = theirs["d_xs"][::-1]
    with pytest.raises(AssertionError, match="d_xs"):
        kit.agree(kit.hand(layer, p), theirs | {"d_xs": d_xs})


@pytest.mark.parametrize("readout", ["every", "last"])
@pytest.mark.parametrize("kind", list(KINDS))
def test_the_loss_of_a_two_layer_bidirectional_network_is_that_of_torch(kit, kind, readout):
    rng = np.random.default_rng(5)
    T, B, n_in, n_hidden, n_out = 7, 4, 3, 5, 6
    lengths = np.array([3, 7, 1, 5])
    network = Network([KINDS[kind]] * 2, directions=2, readout=readout, n_out=n_out)
    params = network.init(rng, n_in, n_hidden)
    targets = rng.integers(0, n_out, (T, B) if readout == "every" else B)
    batch = Batch(rng.standard_normal((T, B, n_in)), targets, lengths=lengths)
    loss, gradients = network.loss_and_gradient(params, batch)

    module = in_torch(kind, 2, 2, params, n_in, n_hidden)
    V = torch.tensor(params["readout.V"], requires_grad=True)
    c = torch.tensor(params["readout.c"], requires_grad=True)
    xs = torch.tensor(batch.xs, requires_grad=True)
    utils = torch.nn.utils.rnn
    packed = utils.pack_padded_sequence(xs, torch.tensor(lengths), enforce_sorted=False)
    ys, final = module(packed)
    if readout == "every":
        hs, _ = utils.pad_packed_sequence(ys, total_length=T)
        wanted = torch.tensor(np.where(batch.real, targets, -100))
    else:
        # The final states of the last layer: of either direction its own last output.
        hs = torch.cat(tuple((final[0] if kind == "LSTM" else final)[-2:]), dim=-1)
        wanted = torch.tensor(targets)
    logits = hs @ V.T + c
    theirs = torch.nn.functional.cross_entropy(logits.reshape(-1, n_out), wanted.reshape(-1))
    theirs.backward()

    expected = {f"d_{k}": v for k, v in gradients_in_torch(kind, 2, 2, module).items()}
    expected |= {"d_readout.V": V.grad.numpy(), "d_readout.c": c.grad.numpy()}
    ours = {f"d_{k}": v for k, v in gradients.d_params.items()} | {"d_xs": gradients.d_xs}
    kit.agree(ours, expected | {"d_xs": xs.grad.numpy()})
    assert loss == pytest.approx(theirs.item(), rel=1e-13)
