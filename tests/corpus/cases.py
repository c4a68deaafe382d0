"""The index of the corpus: how each module is handed to the checker, and the bugs planted in it.

A module in ``code/`` is right as it stands. A bug is an edit of its text, as an author would have
made the mistake. Nothing of the modules was written for the checker, and none is copied.
"""

from __future__ import annotations

import ast
import inspect
import linecache
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from bpttcheck.adapt import from_grad, from_object, from_vjp, in_module

CODE = Path(__file__).parent / "code"
Glue = Callable[[Any], Any]


@dataclass(frozen=True)
class Bug:
    """A mistake.

    Args:
        name: what it is, in a few words.
        old: the text that is right, once in the module.
        new: what stands there instead.
        diagnosis: the code of the first diagnosis, or ``""`` if none is expected.
    """

    name: str
    old: str
    new: str
    diagnosis: str = ""


@dataclass(frozen=True)
class Module:
    """A module of the corpus.

    Args:
        name: of the module.
        glue: from the module to a subject; its lines are counted.
        bugs: the mistakes planted in it.
        no_jax: why JAX does not judge it; ``""`` if it does.
    """

    name: str
    glue: Glue
    bugs: tuple[Bug, ...]
    no_jax: str = ""

    @property
    def glue_lines(self) -> int:
        """The lines that its user writes: those of the call."""
        body = ast.parse(inspect.getsource(self.glue)).body[0].body
        return (body[-1].end_lineno or 0) - body[0].lineno + 1

    @property
    def versions(self) -> tuple[Bug | None, ...]:
        """The right one, as None, and the wrong ones."""
        return (None, *self.bugs)

    def loaded(self, bug: Bug | None = None) -> ModuleType:
        """The module, with a mistake if one is given."""
        text = (CODE / f"{self.name}.py").read_text()
        if bug is not None:
            assert text.count(bug.old) == 1, (
                f"{self.name}: {bug.old!r} stands there {text.count(bug.old)} times"
            )
            text = text.replace(bug.old, bug.new)
        made = ModuleType(self.name if bug is None else f"{self.name}_wrong")
        made.__file__ = str(CODE / f"{self.name}.py") + ("" if bug is None else f" with {bug.name}")
        linecache.cache[made.__file__] = (len(text), None, text.splitlines(True), made.__file__)
        exec(compile(text, made.__file__, "exec"), made.__dict__)
        return made

    def subject(self, bug: Bug | None = None) -> Any:
        """What is checked."""
        return self.glue(self.loaded(bug))


ENTRIES: dict[str, Module] = {}


def entry(*bugs: Bug, no_jax: str = "") -> Callable[[Glue], Glue]:
    """Enter the glue of a module of the same name."""

    def register(glue: Glue) -> Glue:
        ENTRIES[glue.__name__] = Module(glue.__name__, glue, bugs, no_jax)
        return glue

    return register


@entry(
    Bug(
        "the carry is lost", "dh[:, t, :] + dprev_h, cache[t]", "dh[:, t, :], cache[t]", "truncated"
    ),
    Bug(
        "the derivative of tanh is missing",
        "dnext_h * (1 - next_h**2)",
        "dnext_h",
        "wrong-derivative",
    ),
)
def cs231n_rnn(m):
    return from_vjp(m.rnn_forward, m.rnn_backward,
                    "x: N T D, h0: N H, Wx: D H, Wh: H H, b: H -> h: N T H")  # fmt: skip


@entry(
    Bug(
        "the carry of the cell skips the forget gate",
        "da @ Wh.T, dc * f,",
        "da @ Wh.T, dc,",
        "wrong-operand",
    ),
    Bug(
        "two gates are exchanged",
        "di, df, do, dg = dc * g, dc * prev_c,",
        "df, di, do, dg = dc * g, dc * prev_c,",
        "swapped-gates",
    ),
)
def cs231n_lstm(m):
    return from_vjp(m.lstm_forward, m.lstm_backward,
                    "x: N T D, h0: N H, Wx: D 4H, Wh: H 4H, b: 4H -> h: N T H")  # fmt: skip


@entry(
    Bug(
        "transposed",
        'np.dot(parameters["Waa"].T, dtanh)',
        'np.dot(parameters["Waa"], dtanh)',
        "transposed",
    ),
    Bug(
        "only the last step", 'dWaa += gradients["dWaa"]', 'dWaa = gradients["dWaa"]', "overwritten"
    ),
)
def coursera_rnn(m):
    return from_vjp(
        m.rnn_forward, m.rnn_backward,
        "x: D M T, a0: H M, parameters: {Wax: H D, Waa: H H, ba: H 1} -> a: H M T", batch="M",
    )  # fmt: skip


@entry(
    Bug(
        "tanh of the cell is not differentiated",
        "ot * (1 - np.tanh(c_next) ** 2) * da_next",
        "ot * da_next",
        "wrong-derivative",
    ),
    Bug(
        "the mean for the sum",
        "np.sum(dgate, axis=1, keepdims=True)",
        "np.mean(dgate, axis=1, keepdims=True)",
        "batch-reduction",
    ),
)
def coursera_lstm(m):
    return from_vjp(
        m.lstm_forward, m.lstm_backward,
        "x: D M T, a0: H M, parameters: {Wf: H H+D, bf: H 1, Wi: H H+D, bi: H 1,"
        " Wc: H H+D, bc: H 1, Wo: H H+D, bo: H 1} -> a: H M T", batch="M",
    )  # fmt: skip


@entry(
    Bug(
        "the state of the same step",
        "np.dot(dhraw, hs[t - 1].T)",
        "np.dot(dhraw, hs[t].T)",
        "off-by-one",
    ),
    Bug(
        "the gradient of the target is not reduced",
        "dy[targets[t]] -= 1",
        "dy[targets[t]] -= 0",
        "missing-path",
    ),
)
def min_char_rnn(m):
    return from_grad(
        m.loss_fun, "inputs: T < V, targets: T < V, hprev: H 1",
        returns="loss, dWxh, dWhh, dWhy, dbh, dby, _",
        params=in_module(m, Wxh="H V", Whh="H H", Why="V H", bh="H 1", by="V 1"),
    )  # fmt: skip


@entry(
    Bug(
        "rows are overwritten",
        'grads["E"][token] += params',
        'grads["E"][token] = params',
        "overwritten",
    ),
    Bug("the cell's carry is lost", "dc_next = dc * f", "dc_next = 0 * dc", "truncated"),
)
def lstm_loss_dicts(m):
    return from_grad(
        m.forward_backward,
        "params: {E: V D, Wx: 4H D, Wh: 4H H, b: 4H, Wy: V H, by: V},"
        " tokens: T < V, targets: T < V",
    )  # fmt: skip


@entry(
    Bug("the readout is added twice", "dh = W.T @ da\n", "dh = W.T @ da + error[t - 1] * v\n"),
    Bug("columns for rows", "dW.ravel(), db", "dW.T.ravel(), db", "transposed"),
)
def flat_vector(m):
    return from_grad(m.objective, "theta: 21, x: T 2, target: T", returns="loss, dtheta")


@entry(
    Bug(
        "the derivative is taken of the input",
        "(self.h[:, t + 1] > 0)",
        "(self.h[:, t] > 0)",
        "wrong-derivative",
    ),
    Bug("the bias is a mean", "dz.sum(axis=0)", "dz.mean(axis=0)", "batch-reduction"),
)
def class_attributes(m):
    return from_object(lambda p: m.RecurrentLayer(**p), {"W": "D H", "U": "H H", "b": "H"},
                       "N T D", y="N T H")  # fmt: skip


@entry(
    Bug(
        "the carry of the cell is lost",
        "dx, dh, dc = layer.backward",
        "dx, dh, _ = layer.backward",
        "truncated",
    ),
    Bug(
        "the order of the gates",
        "            ds * c_prev * f * (1 - f),\n            ds * i * (1 - g**2),\n",
        "            ds * i * (1 - g**2),\n            ds * c_prev * f * (1 - f),\n",
        "swapped-gates",
    ),
)
def params_lists(m):
    return from_object(lambda p: m.TimeLSTM(**p), {"Wx": "D 4H", "Wh": "H 4H", "b": "4H"},
                       "N T D", y="N T H")  # fmt: skip


@entry(
    Bug(
        "the step before",
        '["A"][t + 1], self.derived_variables["A"][t]',
        '["A"][t + 1], self.derived_variables["A"][t - 1]',
        "off-by-one",
    ),
    Bug("time is not reversed", "dLdX.insert(0, dX)", "dLdX.append(dX)", "time-order"),
)
def gradients_dict(m):
    return from_object(m.RNN, {"Waa": "H H", "Wax": "D H", "ba": "H", "bx": "H"},
                       "N D T", y="N H T", grads="gradients")  # fmt: skip


@entry(
    Bug(
        "the derivative of the state before",
        "(1 - self.states[t + 1] ** 2)",
        "(1 - self.states[t] ** 2)",
        "wrong-derivative",
    ),
    Bug(
        "one update for another",
        "self.U -= self.lr * grad_U",
        "self.U -= self.lr * grad_U.T",
        "transposed",
    ),
)
def updating_layer(m):
    return from_object(lambda p: m.SGDLayer(**p), {"W": "D H", "U": "H H", "b": "H"},
                       "T B D", y="T B H", update=0.5)  # fmt: skip


@entry(
    Bug(
        "a peephole sees the cell before",
        "(do * c[t + 1]).sum(0)",
        "(do * c[t]).sum(0)",
        "off-by-one",
    ),
    Bug(
        "a path through a peephole is missing",
        "dc * f + di * p[0] + df * p[1]",
        "dc * f + di * p[0]",
        "missing-path",
    ),
)
def peephole_lstm(m):
    return from_vjp(
        m.forward, m.backward,
        "x: T B D, h0: B H, c0: B H, W: D 4H, R: H 4H, p: 3 H, b: 4H -> h: T B H, c_last: B H",
    )  # fmt: skip


@entry(
    Bug("the reset gate does not pass the state on", "drh * r + da", "drh + da", "wrong-operand"),
    Bug("update and candidate", "dh * (n - h) * z", "dh * (h - n) * z", "sign"),
)
def gru_reset_before(m):
    return from_vjp(
        m.gru_forward, m.gru_backward,
        "x: T B D, h0: B H, w: {z: {W: D H, U: H H, b: H}, r: {W: D H, U: H H, b: H},"
        " h: {W: D H, U: H H, b: H}} -> hs: T B H",
    )  # fmt: skip


@entry(
    Bug(
        "the second bias is taken for the first",
        "db_hh += dgh.sum(0)",
        "db_hh += dgi.sum(0)",
        "swapped-gates",
    ),
    Bug(
        "the direct path is missing", "dh = dh * z + dgh @ w_hh", "dh = dgh @ w_hh", "missing-path"
    ),
)
def gru_two_biases(m):
    return from_vjp(
        m.gru, m.gru_grad,
        "x: N T D, h0: N H, w_ih: 3H D, w_hh: 3H H, b_ih: 3H, b_hh: 3H -> out: N T H",
    )  # fmt: skip


@entry(
    Bug(
        "back in the wrong order",
        "dy[:, :, H:], x, Wb, Ub, left,",
        "dy[:, :, H:], x, Wb, Ub, right,",
    ),
    Bug("one direction forgotten", "return dxf + dxb,", "return dxf,", "missing-path"),
)
def bidirectional(m):
    return from_vjp(m.birnn_forward, m.birnn_backward,
                    "x: N T D, Wf: D H, Uf: H H, Wb: D H, Ub: H H -> y: N T 2H")  # fmt: skip


@entry(
    Bug(
        "a layer's carry is lost",
        "da = (dh[k] + d_above)",
        "da = (dh[k] * (k > 0) + d_above)",
        "truncated",
    ),
    Bug(
        "the weights of another layer",
        'dh[k] = da @ layers[k]["U"].T',
        'dh[k] = da @ layers[0]["U"].T',
        "wrong-operand",
    ),
)
def stacked(m):
    return from_vjp(
        m.forward, m.backward,
        "xs: T B D, h0: 2 B H, layers: [{W: D H, U: H H, b: H}, {W: H H, U: H H, b: H}]"
        " -> ys: T B H, hT: 2 B H",
    )  # fmt: skip


@entry(
    Bug("memory is a constant for the scores", " + np.outer(dscores, s_new)", "", "missing-path"),
    Bug(
        "the softmax is not differentiated",
        "alpha * (dalpha - alpha @ dalpha)",
        "alpha * dalpha",
        "missing-path",
    ),
)
def seq2seq_attention(m):
    return from_grad(
        m.seq2seq_loss,
        "source: S < V, target: T < V, E: V D, We: H D, Ue: H H, Wd: H D, Ud: H H, Wo: V 2H",
        returns="loss, dE, dWe, dUe, dWd, dUd, dWo",
    )  # fmt: skip


@entry(
    Bug("the scale is forgotten", "dscores, k) * scale", "dscores, k)", "scale"),
    Bug(
        "the sum of the softmax is taken over queries",
        "(dweights * weights).sum(axis=-1, keepdims=True)",
        "(dweights * weights).sum(axis=1, keepdims=True)",
    ),
)
def attention_pair(m):
    return from_vjp(m.attention, m.attention_vjp,
                    "q: N T D, k: N S D, v: N S E -> out: N T E, weights")  # fmt: skip


@entry(
    Bug(
        "the memory after for the one before", "dM, memory[t])", "dM, memory[t + 1])", "off-by-one"
    ),
    Bug("the decay is forgotten", "dM = decay[None, :, None] * dM", "dM = 1 * dM", "wrong-operand"),
)
def linear_attention(m):
    return from_vjp(m.forward, m.backward,
                    "q: N T D, k: N T D, v: N T E, log_decay: D -> out: N T E")  # fmt: skip


@entry(
    Bug("the key is a constant in what is held", " - S[t].T @ derror", "", "missing-path"),
    Bug(
        "the correction is not taken back",
        "dS = dS - np.outer(derror, k[t])",
        "dS = dS - 0 * np.outer(derror, k[t])",
        "missing-path",
    ),
)
def delta_rule(m):
    return from_vjp(m.delta_forward, m.delta_backward,
                    "k: T D, v: T E, q: T D, beta: T -> y: T E")  # fmt: skip


@entry(
    Bug(
        "from and to exchanged",
        "d_transitions[tags[t - 1], tags[t]] -= 1",
        "d_transitions[tags[t], tags[t - 1]] -= 1",
        "transposed",
    ),
    Bug(
        "the first step is not reduced",
        "d_emissions[0, tags[0]] -= 1",
        "d_emissions[0, tags[0]] -= 0",
        "missing-path",
    ),
)
def crf_loss(m):
    return from_grad(m.crf_nll, "emissions: T K, transitions: K K, tags: T < K")


@entry(
    Bug(
        "the class is counted twice", "beta[t][s] - logp[t, path[s]] - total", "beta[t][s] - total"
    ),
)
def ctc_loss(m):
    return from_grad(m.ctc_loss, "logits: T V+1, labels: L < V where T in 5|6|7, L in 1|2|3")


@entry(
    Bug("padding is not masked", "dx_flat *= mask_flat[:, None]", "dx_flat *= 1", "wrong-operand"),
    Bug("the mean is over steps as well", "dx_flat /= N", "dx_flat /= N * T", "time-reduction"),
)
def masked_cross_entropy(m):
    return from_grad(m.temporal_softmax_loss, "x: N T V, y: N T < V, mask: N T bool")


@entry(
    Bug(
        "words that occur again are written once",
        "np.add.at(dW, x, dout)",
        "dW[x] += dout",
        "overwritten",
    ),
)
def embedding(m):
    return from_vjp(m.word_embedding_forward, m.word_embedding_backward,
                    "x: N T < V, W: V D -> out: N T D")  # fmt: skip


@entry(
    Bug(
        "the mean's own gradient is missing",
        "dn - dn.mean(axis=-1, keepdims=True) - normal",
        "dn - normal",
        "missing-path",
    ),
    Bug("the gain is forgotten", "dn = dy * gain", "dn = dy * 1", "wrong-operand"),
)
def layer_norm(m):
    return from_vjp(m.ln_rnn, m.ln_rnn_vjp, "x: T B D, W: D H, U: H H, gain: H -> ys: T B H")


@entry(
    Bug(
        "taps are overwritten",
        "d_padded[:, :, j : j + T] += np",
        "d_padded[:, :, j : j + T] = np",
        "overwritten",
    ),
    Bug(
        "the wrong end is cut off",
        "return d_padded[:, :, k - 1 :]",
        "return d_padded[:, :, : T]",
        "off-by-one",
    ),
)
def causal_conv(m):
    return from_object(lambda p: m.CausalConv1d(**p), {"weight": "O C 3", "bias": "O"},
                       "N C T", y="N O T", forward="__call__")  # fmt: skip


@entry(
    Bug(
        "the sum runs forwards",
        "np.cumsum((ds * powers)[::-1], axis=0)[::-1]",
        "np.cumsum(ds * powers, axis=0)",
        "time-order",
    ),
    Bug(
        "the state of the same step",
        "np.sum(lam * previous, axis=0)",
        "np.sum(lam * states, axis=0)",
    ),
)
def scan_cumsum(m):
    return from_vjp(m.ssm_forward, m.ssm_backward, "u: T D, log_a: D, C: D K -> y: T K")


@entry(
    Bug(
        "state and input are cut at the wrong place",
        "dX[t], dh = d_in[:, :n_in], d_in[:, n_in:]",
        "dX[t], dh = d_in[:, -n_in:], d_in[:, :-n_in]",
        "swapped-gates",
    ),
    Bug(
        "the gradient of every step is doubled",
        "back_tanh(dY[t] + dh)",
        "back_tanh(dY[t] + dY[t] + dh)",
        "doubled-path",
    ),
)
def closures(m):
    return from_vjp(m.rnn, lambda dY, backprop: backprop(dY),
                    "X: T B D, W: D+H H, b: H -> Y: T B H")  # fmt: skip


@entry(
    Bug("the gate is a constant", '+ dgate @ params["Ug"].T', "+ 0 * dgate", "missing-path"),
    Bug(
        "the step's own gradient comes too late",
        "dh = dh + dh_t\n        dgate",
        "dh = dh + 0 * dh_t\n        dgate",
        "missing-path",
    ),
)
def cache_stack(m):
    return from_vjp(m.forward, m.backward,
                    "xs: T B D, params: {Wg: D H, Ug: H H, Wc: D H} -> h: T B H")  # fmt: skip


@entry(
    Bug(
        "the last state at t = 0",
        "dW += np.outer(delta, states[t])",
        "dW += np.outer(delta, states[t - 1])",
        "off-by-one",
    ),
    Bug("truncated to one step", "ds = W.T @ delta", "ds = 0 * (W.T @ delta)", "truncated"),
)
def lists_of_arrays(m):
    return from_vjp(m.forward, m.bptt,
                    "xs: T * [D], U: H D, W: H H, V: K H -> outputs: T * [K], states")  # fmt: skip


@entry(
    Bug(
        "the gradient comes in at every step",
        "dh = Wh.T @ draw",
        "dh = Wh.T @ draw + Wo.T @ dy",
        "doubled-path",
    ),
    Bug(
        "rows are overwritten",
        "d_embed[tokens[t]] += draw",
        "d_embed[tokens[t]] = draw",
        "overwritten",
    ),
)
def dicts_by_time(m):
    return from_vjp(m.forward, m.backward,
                    "tokens: T < V, embed: V H, Wh: H H, bh: H 1, Wo: K H -> y: K 1")  # fmt: skip


@entry(
    Bug("the state after for the one before", "H[t].T @ local", "H[t + 1].T @ local", "off-by-one"),
    Bug(
        "in the wrong order",
        "return g_bias, g_rec, g_in, g_X",
        "return g_bias, g_rec.T, g_in, g_X",
        "transposed",
    ),
)
def float32_buffers(m):
    return from_vjp(m.forward, m.backward, grads="dbias, dW_rec, dW_in, dX",
                    signature="X: T B D, W_in: D H, W_rec: H H, bias: H -> out: T B H")  # fmt: skip


@entry(
    Bug(
        "the decay is doubled",
        "decay * Wxh, decay * Whh",
        "2 * decay * Wxh, decay * Whh",
        "doubled-path",
    ),
    Bug(
        "the batch is not averaged over",
        "error[t] @ Why.T / B + dh",
        "error[t] @ Why.T + dh",
        "scale",
    ),
)
def only_weights(m):
    return from_grad(
        m.train_loss,
        "x: T B D, y: T B K, Wxh: D H, Whh: H H, Why: H K, lr = 0.1, decay = 0.01",
    )  # fmt: skip


@entry(
    Bug(
        "the gate's path through the product is missing",
        "(dh * (n - h) + dfh * h)",
        "(dh * (n - h))",
        "missing-path",
    ),
    Bug(
        "the product is taken for the state",
        'grads["Uh"] += (f * h).T @ dn',
        'grads["Uh"] += h.T @ dn',
        "wrong-operand",
    ),
)
def none_for_input(m):
    return from_object(lambda p: m.MinimalGatedUnit(**p),
                       {"Wf": "D H", "Uf": "H H", "Wh": "D H", "Uh": "H H"},
                       "N T D", y="N T H")  # fmt: skip


@entry(
    Bug(
        "the last state's gradient is dropped",
        "d_act = (d_state + d_out)",
        "d_act = (d_state * (len(d_inputs) > 0) + d_out)",
        "missing-path",
    ),
    Bug(
        "the derivative at the state after",
        "for (before, x, _), d_out",
        "for (_, x, before), d_out",
    ),
)
def two_outputs(m):
    return from_vjp(m.scan_rnn, m.scan_rnn_bwd, "state: B H, inputs: T B D, weights: (D H, H H, H)"
                    " -> state: B H, outputs: T B H, rows")  # fmt: skip


@entry(
    Bug("the sum for the mean", "dlogits /= B", "dlogits /= 1", "scale"),
    Bug(
        "the first step is left out",
        "for t in range(T)[::-1]:",
        "for t in range(1, T)[::-1]:",
        "missing-term",
    ),
)
def last_step_classifier(m):
    return from_grad(
        m.loss_and_grad, "params: {E: V H, U: H H, V: H K}, tokens: N T < V, labels: N < K"
    )
