"""The peers, one file for each library; adding one takes its file and its line here."""

from __future__ import annotations

from benchmarks.power.peers.autograd_check_grads import AUTOGRAD
from benchmarks.power.peers.base import Answer, Named, Peer, Settings, ask
from benchmarks.power.peers.jax_check_grads import CHECK_GRADS, CHEX
from benchmarks.power.peers.pytensor_verify_grad import PYTENSOR
from benchmarks.power.peers.taylor_test import TAYLOR
from benchmarks.power.peers.torch_gradcheck import FAST, SLOW

__all__ = ["PEERS", "Answer", "Named", "Peer", "Settings", "ask"]

PEERS = (SLOW, FAST, CHECK_GRADS, CHEX, AUTOGRAD, PYTENSOR, TAYLOR)
