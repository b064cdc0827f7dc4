"""What comes with ``import vestibule.sdk``: nothing of the server, and no library that only one integration needs."""

from __future__ import annotations

import subprocess
import sys
from typing import Final

import pytest

from vestibule import sdk
from vestibule.sdk.source import X509Source

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
ALL: Final = "from vestibule.sdk import *"
BARE: Final = "import vestibule.sdk"


def loaded(imported: str) -> list[str]:
    program = f"import sys\nold = set(sys.modules)\n{imported}\nprint(*sorted(set(sys.modules) - old))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return done.stdout.split()


def test_names_are_loaded_when_they_are_used() -> None:
    assert [each for each in loaded(BARE) if each.startswith("vestibule.")] == ["vestibule.sdk"]
    assert "vestibule.sdk.tls" in loaded(ALL)


def test_every_name_of_the_library_is_there() -> None:
    for name in sdk.__all__:
        assert getattr(sdk, name) is not None
    assert set(sdk.__all__) <= set(dir(sdk))
    assert sdk.X509Source is X509Source


def test_a_name_that_is_not_there_is_an_error_as_of_any_module() -> None:
    with pytest.raises(AttributeError, match=r"'vestibule\.sdk' has no attribute 'X509Sauce'"):
        sdk.X509Sauce  # type: ignore[attr-defined]  # noqa: B018 - asking is the test


def test_importing_the_library_loads_nothing_of_the_server() -> None:
    modules = loaded(ALL)
    rooms = {each.split(".")[1] for each in modules if each.startswith("vestibule.")}
    assert rooms <= ROOMS
    assert not {each for each in modules if each.startswith("vestibule.sdk.") and each.count(".") > 2}
    top = {each.split(".")[0] for each in modules} - set(sys.stdlib_module_names) - {"vestibule"}
    assert top <= FOREIGN | {each for each in top if each.startswith("_")}
