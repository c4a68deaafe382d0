"""Libraries whose aim is that one can read them."""

# Packages are imported in the adapter that needs them: few of them are installed at a time.

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks.wild.implementation import implementation
from bpttcheck import adapt
from bpttcheck.adapt.function import Function

PINNED = "Pins NumPy 1.21, which has no wheel for Python 3.11: installed without its dependencies."


def epynn(layer: Any, gates: str, name: str, **options: Any) -> Function:
    shapes = {"U": "D H", "V": "H H", "b": "1 H"}
    params = {key + gate: axes for gate in gates.split(",") for key, axes in shapes.items()}

    def make(p: dict[str, Any]) -> Any:
        made = layer(p[list(p)[1]].shape[0], sequences=True, **options)
        made.p = p
        return made

    def grads(made: Any) -> Any:
        made.compute_gradients()
        return made.g

    return adapt.from_object(make, params, "N T D", y="N T H", grads=grads, name=name)


@implementation(
    "EpyNN",
    "`RNN`, defaults",
    "check_object",
    "`clip_gradients=True` by default (of `RNN` alone), a documented choice: what comes back has "
    f"a norm of at most 0.25. {PINNED}",
    licence="GPL-3.0",
    on_purpose=True,
)
def epynn_rnn() -> Function:
    from epynn.rnn.models import RNN

    return epynn(RNN, "", "epynn.RNN")


@implementation(
    "EpyNN", "`RNN`, clipping off", "check_object", "`clip_gradients=False`.", licence="GPL-3.0"
)
def epynn_rnn_unclipped() -> Function:
    from epynn.rnn.models import RNN

    return epynn(RNN, "", "epynn.RNN(clip_gradients=False)", clip_gradients=False)


@implementation("EpyNN", "`GRU`", "check_object", licence="GPL-3.0")
def epynn_gru() -> Function:
    from epynn.gru.models import GRU

    return epynn(GRU, "z,r,hh", "epynn.GRU")


@implementation("EpyNN", "`LSTM`", "check_object", licence="GPL-3.0")
def epynn_lstm() -> Function:
    from epynn.lstm.models import LSTM

    return epynn(LSTM, "f,i,g,o", "epynn.LSTM")


def neuralnetlib(layer: str, gates: str, clip: dict[str, float], name: str) -> Function:
    from neuralnetlib import layers

    shapes = {"W": "D H", "U": "H H", "b": "1 H"}
    params = {key + gate: axes for gate in gates for key, axes in shapes.items()}

    def make(p: dict[str, Any]) -> Any:
        units = p[f"U{gates[0]}"].shape[0]
        made = getattr(layers, layer)(units, return_sequences=True, **clip)
        made.cell = getattr(layers, f"{layer}Cell")(units, **(clip if layer == "GRU" else {}))
        made.cell.__dict__.update(p)
        made.initialized = True
        return made

    return adapt.from_object(
        make, params, "N T D", y="N T H", forward="forward_pass", backward="backward_pass",
        grads=lambda made: {key: getattr(made.cell, f"d{key}") for key in params}, name=name,
    )  # fmt: skip


CLIPPED = (
    "As published it clips: `clip_value=5.0` by default, a documented choice. What comes back is "
    "then a clipped gradient wherever the gradient is large."
)


@implementation("neuralnetlib", "`LSTM`, defaults", "check_object", CLIPPED)
def neuralnetlib_lstm() -> Function:
    return neuralnetlib("LSTM", "fico", {}, "neuralnetlib.LSTM")


@implementation(
    "neuralnetlib",
    "`LSTM`, clipping off",
    "check_object",
    "`clip_value=1e30`. A constant of 1e-7 is added to every derivative of a sigmoid or tanh, with "
    "the defaults, too: about the rounding unit of float32.",
)
def neuralnetlib_lstm_unclipped() -> Function:
    return neuralnetlib("LSTM", "fico", {"clip_value": 1e30}, "neuralnetlib.LSTM(clip_value=1e30)")


@implementation("neuralnetlib", "`GRU`, defaults", "check_object", CLIPPED, on_purpose=True)
def neuralnetlib_gru() -> Function:
    return neuralnetlib("GRU", "rzh", {}, "neuralnetlib.GRU")


@implementation("neuralnetlib", "`GRU`, clipping off", "check_object", "`clip_value=1e30`.")
def neuralnetlib_gru_unclipped() -> Function:
    return neuralnetlib("GRU", "rzh", {"clip_value": 1e30}, "neuralnetlib.GRU(clip_value=1e30)")


def custom_rnn_cell(batch: str) -> Function:
    from mytorch.rnn_cell import RNNCell

    def cell(h0: Any, *weights: Any) -> Any:
        made = RNNCell(weights[0].shape[1], h0.shape[1])
        made.init_weights(*weights)
        return made

    def forward(x: Any, h0: Any, *weights: Any) -> tuple[Any, Any]:
        return cell(h0, *weights).forward(x, h0), (x, h0, weights)

    def backward(dh: Any, h: Any, cache: Any) -> list[Any]:
        x, h0, weights = cache
        made = cell(h0, *weights)
        made.forward(x, h0)
        return [*made.backward(dh, h, x, h0), made.dW_ih, made.dW_hh, made.db_ih, made.db_hh]

    text = f"x: N D, h0: N H, W_ih: H D, W_hh: H H, b_ih: H, b_hh: H -> h: N H{batch}"
    # With one row there is no law of the batch.
    told = "" if batch else None
    return adapt.from_vjp(
        forward, backward, text, name=f"mytorch.RNNCell{batch}", time="", batch=told
    )


@implementation(
    "custom-rnn",
    "`RNNCell`, one step",
    "check_vjp",
    "Compiled. Its comments say that the gradients of the weights are averaged over the batch; "
    "those of the inputs are not, so no one loss has both.",
    on_purpose=True,
)
def custom_rnn() -> Function:
    return custom_rnn_cell("")


@implementation("custom-rnn", "`RNNCell`, one step, batch of 1", "check_vjp", "Compiled.")
def custom_rnn_single() -> Function:
    return custom_rnn_cell(" where N in 1")


@implementation("custom-rnn", "`GRUCell`, one step", "check_vjp", "Compiled; takes one sample.")
def custom_gru() -> Function:
    from mytorch.gru_cell import GRUCell

    gates = ("Wrx", "Wzx", "Wnx", "Wrh", "Wzh", "Wnh", "brx", "bzx", "bnx", "brh", "bzh", "bnh")

    def forward(x: Any, h0: Any, *weights: Any) -> tuple[Any, Any]:
        made = GRUCell(len(x), len(h0))
        made.init_weights(*weights)
        return made.forward(x, h0), (made, x, h0, weights)

    def backward(dh: Any, cache: Any) -> list[Any]:
        _, x, h0, weights = cache
        made = forward(x, h0, *weights)[1][0]  # its gradients grow from call to call
        return [*made.backward(dh), *(getattr(made, f"d{name}") for name in gates)]

    axes = {"Wx": "H D", "Wh": "H H", "bx": "H", "bh": "H"}
    weights = ", ".join(f"{name}: {axes[name[0] + name[2]]}" for name in gates)
    return adapt.from_vjp(
        forward, backward, f"x: D, h0: H, {weights} -> h: H", name="mytorch.GRUCell"
    )


def s2s(loss_of: Any, name: str) -> Function:
    from RNN.RNN import S2S_RNN

    names = ("Wo", "bo", "Wss", "Wsx", "bs")

    def loss(x: Any, tokens: Any, s0: Any, *weights: Any) -> tuple[Any, ...]:
        net = S2S_RNN(x.shape[1], len(s0), len(weights[1]))
        net.__dict__.update(zip(names, weights, strict=True))
        target = np.eye(len(weights[1]))[tokens][:, :, None]
        found, mean = net.backward_pass(list(x), target, f1="tanh", s0=s0)
        return (loss_of(net, mean), *found)

    return adapt.from_grad(
        loss, "x: T D, tokens: T < V, s0: H, Wo: V H, bo: V 1, Wss: H H, Wsx: H D, bs: H 1",
        returns="loss, dWo, dbo, dWss, dWsx, dbs", name=name,
    )  # fmt: skip


@implementation(
    "s2s-rnn",
    "`S2S_RNN`, the loss that it returns",
    "check_grad",
    "The loss that it returns is a mean over the steps, and the gradient is that of the sum: T "
    "times as large, as a larger learning rate would make it.",
)
def s2s_returned() -> Function:
    return s2s(lambda net, mean: mean, "S2S_RNN, mean")


@implementation(
    "s2s-rnn", "`S2S_RNN`, its loss summed over the steps", "check_grad", "The loss it descends."
)
def s2s_summed() -> Function:
    return s2s(lambda net, mean: np.sum(net.losses_over_t), "S2S_RNN, sum")


@implementation(
    "pyrenn",
    "`BPTT` of a net with a recurrent hidden layer and output",
    "check_grad",
    "A net 2-3-1 with delays of one step; all weights in one vector.",
    licence="GPL-3.0",
)
def pyrenn_bptt() -> Function:
    import pyrenn

    made = pyrenn.CreateNN([2, 3, 1], dIn=[0], dIntern=[1], dOut=[])

    def loss(w: Any, P: Any, Y: Any) -> tuple[Any, Any]:
        data, net = pyrenn.prepare_data(P, Y, {**made, "w": w})
        gradient, error = pyrenn.BPTT(net, data)
        return error, gradient

    return adapt.from_grad(loss, "w: 23, P: 2 T, Y: 1 T", returns="loss, dw", name="pyrenn.BPTT")
