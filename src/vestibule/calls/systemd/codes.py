"""Error codes of calls to systemd."""

from vestibule.errors import Fault, Kind, define

BUS_UNREACHABLE = define(
    "VST2345",
    "system-bus-unreachable",
    Kind.UNAVAILABLE,
    Fault.OPERATOR,
    meaning="The D-Bus system bus cannot be reached, or refuses this user.",
    advice="Check that systemd and its bus run on this node and that the agent can open the bus's socket.",
)
BUS_ANSWER = define(
    "VST2346",
    "system-bus-answer-refused",
    Kind.UNAVAILABLE,
    Fault.PEER,
    meaning="systemd or its bus answered with an error, or with something that is not D-Bus.",
    advice="Look at the bus's error in the message, and into systemd's journal.",
)
