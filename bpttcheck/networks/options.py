"""Which options of a network go together."""

from __future__ import annotations

from typing import Any

from bpttcheck.errors import ContractError
from bpttcheck.networks.bidirectional import require_merge
from bpttcheck.networks.readout import require_n_out

READOUTS = ("every", "last", "fed_back", None)


def require_options(network: Any) -> None:
    """Refuse options of a :class:`bpttcheck.networks.Network` that are unknown or contradict.

    Raises:
        ContractError: there are such.
    """
    readout, directions = network.readout, network.directions
    if readout not in READOUTS:
        raise ContractError(
            f"readout={readout!r} is unknown, expected one of {', '.join(map(repr, READOUTS))}",
            item="readout",
        )
    if directions not in (1, 2):
        raise ContractError(f"directions={directions!r}, but expected 1 or 2", item="directions")
    require_merge(network.merge)
    if readout is not None:
        require_n_out(network.n_out, f"a Network with readout={readout!r}")
    elif network.n_out is not None:
        raise ContractError(
            f"n_out={network.n_out} with readout=None, but without a readout the last layer puts"
            " out n_hidden: set n_out=None, or readout='every'",
            item="n_out",
        )
    if readout == "fed_back" and directions == 2:
        raise ContractError(
            "directions=2 with readout='fed_back', but an output cannot be fed back to steps that"
            " came before it: use directions=1",
            item="directions",
        )
    if readout != "fed_back" and (
        network.teacher_forced or network.output_activation != "identity"
    ):
        item = "teacher_forced" if network.teacher_forced else "output_activation"
        raise ContractError(
            f"{item}={getattr(network, item)!r} with readout={readout!r}, but only an output that"
            " is fed back has it: use readout='fed_back'",
            item=item,
        )
