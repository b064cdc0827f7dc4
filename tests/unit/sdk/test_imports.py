"""What comes with ``import vestibule.sdk``: nothing of the server, and no library that only one integration needs."""

from __future__ import annotations

import subprocess
import sys
from typing import Final

ROOMS: Final = {"calls", "clock", "errors", "net", "pki", "sdk", "spiffe", "wire"}
FOREIGN: Final = {
    "_cffi_backend",
    "_openssl",
    "cryptography",
    "google",
    "grpclib",
    "h2",
    "hpack",
    "hyperframe",
    "multidict",
}
LOADED: Final = (
    "import sys\nold = set(sys.modules)\nimport vestibule.sdk\nprint(*sorted(set(sys.modules) - old))"
)


def loaded() -> list[str]:
    return subprocess.run(
        [sys.executable, "-c", LOADED], capture_output=True, text=True, check=True
    ).stdout.split()


def test_importing_the_library_loads_nothing_of_the_server() -> None:
    modules = loaded()
    rooms = {each.split(".")[1] for each in modules if each.startswith("vestibule.")}
    assert rooms <= ROOMS
    assert not {each for each in modules if each.startswith("vestibule.sdk.") and each.count(".") > 2}
    top = {each.split(".")[0] for each in modules} - set(sys.stdlib_module_names) - {"vestibule"}
    assert top <= FOREIGN | {each for each in top if each.startswith("_")}
