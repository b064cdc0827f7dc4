"""What is wrong with the file of a lone sidecar beyond what is wrong with an intent (732n), or with a set of them."""

from typing import Final

from vestibule.errors import ErrorCode, Fault, Kind, define


def _lone(code: str, name: str, *, meaning: str, advice: str) -> ErrorCode:
    return define(code, name, Kind.INVALID, Fault.OPERATOR, meaning=meaning, advice=advice)


LONE_UNREADABLE: Final = _lone(
    "VST7320",
    "lone-file-unreadable",
    meaning="The file of a lone sidecar, or a file beside it that it names, cannot be read.",
    advice="Give the path of a readable UTF-8 file of at most 1 MiB: vestibule sidecar --static FILE.",
)
LONE_INVALID: Final = _lone(
    "VST7321",
    "lone-file-invalid",
    meaning="The file of a lone sidecar has errors. At the start nothing was started; of a file that changed while "
    "the sidecar runs, nothing was taken over, and what held before holds.",
    advice="Mend what is listed; `vestibule sidecar --static FILE --print` checks it without starting anything.",
)
FOREIGN_IDENTITY: Final = _lone(
    "VST7322",
    "lone-foreign-identity",
    meaning="An upstream's identity is none that a service can have here: it is of another trust domain than the "
    "sidecar's own, has no path, or belongs to servers and agents.",
    advice="Write the callee's own SPIFFE ID, of the same trust domain. Others are reached as `egress`, by public "
    "certificates.",
)
SELF_CALL: Final = _lone(
    "VST7323",
    "lone-name-taken",
    meaning="Two of the file's own name, its upstreams, its callers and its hosts outside have one name.",
    advice="Give each a name of its own: it is the host name by which the app calls it.",
)
NEEDS_DECISIONS: Final = _lone(
    "VST7324",
    "lone-needs-decisions",
    meaning="A rule asks for something that only a decision service can judge, and a lone sidecar has none: calls "
    "would be neither allowed nor denied by it.",
    advice="Say it by methods, paths and conditions that a proxy judges (docs/authorization.md), or move the service "
    "into the mesh.",
)
NEEDS_SERVER: Final = _lone(
    "VST7325",
    "lone-needs-server",
    meaning="The file speaks of something that a Vestibule server provides: keys that it fetches or has, or tokens "
    "that it issues.",
    advice="Put the issuer's public keys beside the file, as keys/NAME.json, and write `keys: keys/NAME.json`.",
)
OPAQUE_ADDRESS: Final = _lone(
    "VST7326",
    "lone-opaque-address",
    meaning="An opaque port is taken in at the same number at which the app listens on 127.0.0.1, and so needs an "
    "address of this machine that is neither loopback nor all of them.",
    advice="Write `address: 10.0.0.5`, this machine's own; or a port with `protocol: tcp` and `listen` of its own.",
)
NO_COMMON_TEMPLATE: Final = _lone(
    "VST7340",
    "lone-identities-apart",
    meaning="Lone sidecars are to become one mesh, and their identities do not follow one pattern with the "
    "service's name in it, or are of several trust domains; a mesh makes identities by such a pattern.",
    advice="Name each service as its identity ends (…/sa/ledger: ledger), and import those together that share a "
    "pattern.",
)
SAID_TWICE: Final = _lone(
    "VST7341",
    "lone-said-twice",
    meaning="Two of the files are of the same service, or say different things about what can be said only once in "
    "a mesh. Nothing was imported.",
    advice="Make them agree, or leave one of them out.",
)
NOT_AMONG: Final = _lone(
    "VST7342",
    "lone-upstream-not-among",
    meaning="A service that is called by one of the files has no file among them. In the mesh it is not known, so "
    "that calls to it will fail.",
    advice="Import its file together with the others, or write services/NAME.yaml by hand.",
)
CALLERS_DIFFER: Final = _lone(
    "VST7343",
    "lone-callers-differ",
    meaning="Callers treat the same service differently (time, tries, routes, limits). In a mesh the called service "
    "says that once, for all callers; here nothing was said for it.",
    advice="Decide what is meant, and write it in services/NAME.yaml.",
)
NOT_ALLOWED_THERE: Final = _lone(
    "VST7344",
    "lone-not-allowed-there",
    meaning="A service has another as its upstream, and no rule of that one lets it call. In the mesh its calls are "
    "denied at once, as they were at the other end before.",
    advice="Leave it so, or add a rule to the called service.",
)
MEANS_OTHERWISE: Final = define(
    "VST7346",
    "lone-means-otherwise",
    Kind.INTERNAL,
    Fault.VESTIBULE,
    meaning="What was made of lone sidecars' files would not allow exactly what they allow. It was not written.",
    advice="Report it with the files; until then write the intent by hand.",
)
CALLED_OTHERWISE: Final = _lone(
    "VST7345",
    "lone-called-otherwise",
    meaning="An app calls a service by another name, or at another port, than it has in the mesh.",
    advice="Let the app use the name in the message, or the variable VESTIBULE_UPSTREAM_… that has it.",
)
