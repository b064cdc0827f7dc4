"""Error codes of workload attestation."""

from vestibule.errors import Fault, Kind, define

NOT_ATTESTED = define(
    "VST2050",
    "workload-not-attested",
    Kind.UNAVAILABLE,
    Fault.OPERATOR,
    meaning="No attestor could find out anything about the calling process.",
    advice="Look at the agent's log for each attestor's reason; the client may try again.",
)
NOT_RUNNING = define(
    "VST2051",
    "vouched-process-not-running",
    Kind.PRECONDITION,
    Fault.CALLER,
    meaning="A process was vouched for that does not run, or whose pid belongs to another process by now.",
    advice="Vouch for a process after it was started, with its pid and the start time from /proc/PID/stat.",
)
ATTESTOR_TIMED_OUT = define(
    "VST2052",
    "workload-attestor-timed-out",
    Kind.UNAVAILABLE,
    Fault.OPERATOR,
    meaning="A workload attestor did not answer in time; the caller is judged by what the others found.",
    advice="Look at what the attestor asks: the container engine, the kubelet, the system bus, the user directory.",
)
FOREIGN_SELECTORS = define(
    "VST2053",
    "foreign-selectors",
    Kind.INTERNAL,
    Fault.OPERATOR,
    meaning="A workload attestor answered with selectors of another type than its own; none of them count.",
    advice="Remove or mend the attestor that the message names: the type of its selectors must be its name.",
)
MALFORMED_CGROUPS = define(
    "VST2054",
    "malformed-cgroups",
    Kind.UNAVAILABLE,
    Fault.PEER,
    meaning="A process's control groups are not in the form in which the kernel writes them.",
    advice="Check that /proc is the kernel's own on this node.",
)
AMBIGUOUS_CONTAINER = define(
    "VST2055",
    "ambiguous-container",
    Kind.DENIED,
    Fault.CALLER,
    meaning="A process is in control groups of different containers, so it is not known which one it belongs to.",
    advice="Look at /proc/PID/cgroup of the process; somebody moved it between containers' groups.",
)
AMBIGUOUS_UNIT = define(
    "VST2056",
    "ambiguous-unit",
    Kind.DENIED,
    Fault.OPERATOR,
    meaning="systemd says that a process belongs to one unit, and the kernel's control groups say otherwise.",
    advice="Run the agent in the host's PID namespace: systemd counts processes by the host's numbers.",
)
CONTAINER_NOT_KNOWN = define(
    "VST2060",
    "container-not-known",
    Kind.UNAVAILABLE,
    Fault.OPERATOR,
    meaning="The container engine does not know the caller's container, does not run it, or answered with another one.",
    advice="Check that the socket in the attestor's settings is that of the engine which runs the container.",
)
ENGINE_NOT_TRUSTED = define(
    "VST2061",
    "container-engine-not-trusted",
    Kind.DENIED,
    Fault.OPERATOR,
    meaning="The caller's container was started by a user's own engine, whose word is not taken, or the engine's "
    "socket belongs to somebody else.",
    advice="If this user's engine is to be believed in what it says of its containers, add the uid to podman_users.",
)
POD_NOT_KNOWN = define(
    "VST2070",
    "pod-not-known",
    Kind.UNAVAILABLE,
    Fault.OPERATOR,
    meaning="The kubelet does not report the caller's container in any pod of the node, or not in the pod it is in.",
    advice="The kubelet reports a new container after a moment, and the client may try again.  Otherwise check that "
    "the agent asks the kubelet of its own node.",
)
KUBELET_ANSWER = define(
    "VST2071",
    "kubelet-answer-refused",
    Kind.UNAVAILABLE,
    Fault.OPERATOR,
    meaning="The kubelet refused to list its pods, or answered something else than a list of pods.",
    advice="Check the token or certificate that the attestor shows, and that it may get nodes/proxy.",
)
