"""Error codes of calls to Git."""

from vestibule.errors import Fault, Kind, define

GIT_ADDRESS = define(
    "VST3220",
    "git-address-refused",
    Kind.INVALID,
    Fault.OPERATOR,
    meaning="The address of a repository is none that is fetched from: it is not https, ssh, a file or a path, "
    "it holds a password, or a branch, tag or folder is named as Git allows no name.",
    advice="Write https://HOST/PATH, ssh://USER@HOST/PATH, USER@HOST:PATH or an absolute path.  A password or "
    "token belongs into the file that `credentials` names.",
)
GIT_MISSING = define(
    "VST3221",
    "git-not-installed",
    Kind.PRECONDITION,
    Fault.OPERATOR,
    meaning="The program `git` is not there, or is older than 2.34.",
    advice="Install it: apt-get install git, or dnf install git.",
)
GIT_UNREACHABLE = define(
    "VST3222",
    "git-unreachable",
    Kind.UNAVAILABLE,
    Fault.OPERATOR,
    meaning="The repository that holds the intent cannot be reached, or broke off.  The mesh goes on with the "
    "last good commit, and the repository is asked again and again.",
    advice="Ask it as the server does: git ls-remote ADDRESS.  Look at the network, the name, and the proxy "
    "settings.",
)
GIT_REF_UNKNOWN = define(
    "VST3223",
    "git-ref-unknown",
    Kind.NOT_FOUND,
    Fault.OPERATOR,
    meaning="The repository has no branch or tag of that name, or no such commit.",
    advice="List what it has: git ls-remote ADDRESS.  Then mend `ref`.",
)
GIT_COMMIT_NOT_SIGNED = define(
    "VST3224",
    "git-commit-not-signed",
    Kind.DENIED,
    Fault.OPERATOR,
    meaning="Only commits signed by an allowed key are taken up, and this one is not signed, or by another "
    "key, or by one that has expired.  The last good commit stays in force.",
    advice="Sign it (git commit --amend -S) with a key that the allowed signers name, or push a signed commit "
    "on top.",
)
GIT_HISTORY_REWRITTEN = define(
    "VST3225",
    "git-history-rewritten",
    Kind.DENIED,
    Fault.OPERATOR,
    meaning="The branch or tag no longer contains the commit that is in force: it was force-pushed or moved.",
    advice="If that was meant, set `force_push: follow`, or merge the commit that is in force: git merge -s "
    "ours COMMIT.",
)
GIT_TOO_LARGE = define(
    "VST3226",
    "git-too-large",
    Kind.EXHAUSTED,
    Fault.OPERATOR,
    meaning="The repository or the intent in it is larger than is taken: `max_size` bounds what is fetched, "
    "and an intent has at most 20,000 files and 64 MiB.",
    advice="Keep the intent in a repository of its own, or raise `max_size`.",
)
GIT_NO_ROOM = define(
    "VST3227",
    "git-no-room",
    Kind.EXHAUSTED,
    Fault.OPERATOR,
    meaning="There is no room on the disk for what would be fetched.  The mesh goes on with the last good "
    "commit.",
    advice="Make room where `data_dir` is; the next look at the repository takes up what was missed.",
)
GIT_ACCESS_DENIED = define(
    "VST3228",
    "git-access-denied",
    Kind.DENIED,
    Fault.OPERATOR,
    meaning="The repository's host does not let us in, or is not the one that `known_hosts` or `ca` knows.",
    advice="Look at `credentials`, `ssh_key`, `known_hosts` and `ca`, and at what the key or token may read.",
)
GIT_OBJECTS_REFUSED = define(
    "VST3229",
    "git-objects-refused",
    Kind.DENIED,
    Fault.PEER,
    meaning="What the repository sent is damaged, or made to harm: Git's own check of objects refuses it.",
    advice="Look at it with git fsck, where it comes from.",
)
GIT_UNKNOWN_REVISION = define(
    "VST3230",
    "git-unknown-revision",
    Kind.NOT_FOUND,
    Fault.CALLER,
    meaning="What was named is neither a directory, nor a commit, branch or tag of the repository around the "
    "current directory.",
    advice="Name a directory, or fetch first: git fetch origin.  In CI, check out with the whole history.",
)
GIT_FAILED = define(
    "VST3231",
    "git-failed",
    Kind.INTERNAL,
    Fault.OPERATOR,
    meaning="Git could not do what it does on our own copy, for a reason that only its message tells.",
    advice="Read the message.  The copy below `data_dir` may be removed while the server is stopped; it is "
    "fetched anew.",
)
