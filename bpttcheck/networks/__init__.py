"""Networks composed of cells and layers, each differentiated by hand; loaded when first used.

Adding one takes its file and one line in ``_HOMES``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from bpttcheck.lazy import index

if TYPE_CHECKING:
    from bpttcheck.networks.direction import Direction, TrainableState
    from bpttcheck.networks.final_output import FinalOutput
    from bpttcheck.networks.network import Batch, LossAndGradient, Network, NetworkGradients
    from bpttcheck.networks.optimise import SGD, Adam, clip_by_norm
    from bpttcheck.networks.output_feedback import OutputFeedback
    from bpttcheck.networks.readout import Readout
    from bpttcheck.networks.stack import Bidirectional, Stack, StackedCell

__all__ = [
    "SGD",
    "Adam",
    "Batch",
    "Bidirectional",
    "Direction",
    "FinalOutput",
    "LossAndGradient",
    "Network",
    "NetworkGradients",
    "OutputFeedback",
    "Readout",
    "Stack",
    "StackedCell",
    "TrainableState",
    "clip_by_norm",
]

_HOMES = {
    "Adam": "optimise",
    "Batch": "network",
    "Bidirectional": "stack",
    "Direction": "direction",
    "FinalOutput": "final_output",
    "LossAndGradient": "network",
    "Network": "network",
    "NetworkGradients": "network",
    "OutputFeedback": "output_feedback",
    "Readout": "readout",
    "SGD": "optimise",
    "Stack": "stack",
    "StackedCell": "stack",
    "TrainableState": "direction",
    "clip_by_norm": "optimise",
}

__getattr__, __dir__ = index(__name__, _HOMES)
