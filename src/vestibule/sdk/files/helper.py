"""Configuration files of spiffe-helper, so that it can be replaced without writing anything anew.

Every key of its version 0.11 is understood, with its meaning and its default; one that it would refuse is refused.
What differs on purpose: an HCL number such as ``444`` is refused where a mode is meant (it is decimal, and would be
0674), the process of ``cmd`` is ended with us, and health is served on loopback unless told otherwise.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from vestibule.errors import VestibuleError, Where
from vestibule.sdk.files.codes import HELPER_CONFIG
from vestibule.sdk.files.contents import JwtFile, Layout
from vestibule.sdk.files.hcl import Number, Value, read_hcl
from vestibule.sdk.files.health import HealthPages
from vestibule.sdk.files.reload import Reload

DEFAULT_ADDRESS: Final = "/tmp/spire-agent/public/api.sock"  # noqa: S108 - spiffe-helper's own default
_LARGEST: Final = 1024 * 1024

_TEXTS: Final = (
    "agent_address", "cmd", "cmd_args", "pid_file_name", "cert_dir", "renew_signal", "svid_file_name",
    "svid_key_file_name", "svid_bundle_file_name", "jwt_bundle_file_name", "hint",
)  # fmt: skip
_FLAGS: Final = ("add_intermediates_to_bundle", "include_federated_domains", "omit_expired", "daemon_mode")
_MODES: Final = {
    "cert_file_mode": 0o644,
    "key_file_mode": 0o600,
    "jwt_bundle_file_mode": 0o600,
    "jwt_svid_file_mode": 0o600,
}
_KEYS: Final = frozenset((*_TEXTS, *_FLAGS, *_MODES, "jwt_svids", "health_checks"))
_JWT_KEYS: Final = frozenset(("jwt_audience", "jwt_extra_audiences", "jwt_svid_file_name"))
_HEALTH_KEYS: Final = frozenset(("listener_enabled", "bind_port", "liveness_path", "readiness_path"))


@dataclass(frozen=True, slots=True, kw_only=True)
class HelperConfiguration:
    """What the file asks for; ``address`` is empty where it leaves the agent to the environment."""

    address: str
    directory: Path
    layout: Layout
    reload: Reload
    daemon: bool
    health: HealthPages | None


def read_helper_configuration(path: Path) -> HelperConfiguration:
    """Read an HCL or JSON file.  Raises: VST2455, VST2456."""
    try:
        with path.open(encoding="utf-8") as file:
            text = file.read(_LARGEST)
    except (OSError, UnicodeDecodeError) as error:
        raise HELPER_CONFIG.error(f"cannot read {path}: {error}") from error
    return _Reader(str(path), read_hcl(text, str(path))).configuration()


class _Reader:
    def __init__(self, file: str, found: Mapping[str, Value]) -> None:
        self._file = file
        self._found = found
        self._only(found, _KEYS, "")

    def configuration(self) -> HelperConfiguration:
        text = {name: self._text(self._found, name) for name in _TEXTS}
        flag = {name: self._flag(self._found, name) for name in _FLAGS}
        daemon = flag["daemon_mode"] is not False
        layout = self._layout(text, flag)
        layout.check()
        if not daemon and text["pid_file_name"]:
            raise self._wrong("pid_file_name is of use with daemon_mode only")
        reload = self._reload(text) if daemon else Reload()
        reload.check()
        return HelperConfiguration(
            address=_address(text["agent_address"]),
            directory=Path(text["cert_dir"] or "."),
            layout=layout,
            reload=reload,
            daemon=daemon,
            health=self._health() if daemon else None,
        )

    def _layout(self, text: Mapping[str, str], flag: Mapping[str, bool | None]) -> Layout:
        x509 = (text["svid_file_name"], text["svid_key_file_name"], text["svid_bundle_file_name"])
        if any(x509) != all(x509):
            raise self._wrong("svid_file_name, svid_key_file_name and svid_bundle_file_name belong together")
        jwts = self._jwts()
        if not any(x509) and not jwts and not text["jwt_bundle_file_name"]:
            raise self._wrong("it names no file to be written")
        mode = {name: self._mode(name, default) for name, default in _MODES.items()}
        return Layout(
            certificate=x509[0],
            key=x509[1],
            bundle=x509[2],
            hint=text["hint"],
            certificate_mode=mode["cert_file_mode"],
            key_mode=mode["key_file_mode"],
            federated=bool(flag["include_federated_domains"]),
            chain_in_bundle=bool(flag["add_intermediates_to_bundle"]),
            omit_expired=bool(flag["omit_expired"]),
            jwts=jwts,
            jwt_mode=mode["jwt_svid_file_mode"],
            jwt_bundle=text["jwt_bundle_file_name"],
            jwt_bundle_mode=mode["jwt_bundle_file_mode"],
            jwt_bundle_of_helper=True,
        )

    def _jwts(self) -> tuple[JwtFile, ...]:
        listed = self._found.get("jwt_svids", [])
        if not isinstance(listed, list):
            raise self._wrong("jwt_svids is a list of objects")
        return tuple(self._jwt(each, number) for number, each in enumerate(listed))

    def _jwt(self, given: Value, number: int) -> JwtFile:
        where = f"jwt_svids[{number}]"
        if not isinstance(given, dict):
            raise self._wrong(f"{where} is an object")
        self._only(given, _JWT_KEYS, where)
        name, audience = self._text(given, "jwt_svid_file_name"), self._text(given, "jwt_audience")
        extra = given.get("jwt_extra_audiences", [])
        if not name or not audience:
            raise self._wrong(f"{where} needs jwt_audience and jwt_svid_file_name")
        if not isinstance(extra, list) or not all(isinstance(each, str) for each in extra):
            raise self._wrong(f"jwt_extra_audiences of {where} is a list of strings")
        return JwtFile(name=name, audience=(audience, *(str(each) for each in extra)))

    def _reload(self, text: Mapping[str, str]) -> Reload:
        if text["pid_file_name"] and not text["renew_signal"]:
            raise self._wrong("pid_file_name needs a renew_signal")
        told = bool(text["pid_file_name"] or text["cmd"])
        return Reload(
            # Without anybody to send it to, spiffe-helper passes it over.
            signal_name=text["renew_signal"] if told else "",
            pid_file=Path(text["pid_file_name"]) if text["pid_file_name"] else None,
            process=(text["cmd"], *_arguments(text["cmd_args"])) if text["cmd"] else (),
        )

    def _health(self) -> HealthPages | None:
        given = self._found.get("health_checks", {})
        if not isinstance(given, dict):
            raise self._wrong("health_checks is a block")
        self._only(given, _HEALTH_KEYS, "health_checks")
        if not self._flag(given, "listener_enabled"):
            return None
        port = given.get("bind_port", Number("8081"))
        if not isinstance(port, Number) or (number := _integer(port.text)) is None or not 0 < number < 65536:
            raise self._wrong("bind_port of health_checks is a port")
        live, ready = (self._text(given, name) for name in ("liveness_path", "readiness_path"))
        return HealthPages(port=number, live=live or "/live", ready=ready or "/ready")

    def _text(self, given: Mapping[str, Value], name: str) -> str:
        value = given.get(name, "")
        if not isinstance(value, str):
            raise self._wrong(f"{name} is a string")
        return value

    def _flag(self, given: Mapping[str, Value], name: str) -> bool | None:
        value = given.get(name)
        if value in ("true", "false"):
            return value == "true"
        if value is not None and not isinstance(value, bool):
            raise self._wrong(f"{name} is true or false")
        return value

    def _mode(self, name: str, default: int) -> int:
        value: Any = self._found.get(name)
        if value is None:
            return default
        text = value.text if isinstance(value, Number) else value
        mode = _integer(text) if isinstance(text, str) and text.startswith("0") else None
        if mode is None or mode > 0o777:
            advice = (
                "Write it in octal, with a zero before it: 0644.  Without the zero, HCL takes it for decimal."
            )
            raise HELPER_CONFIG.error(f"{name} is no mode of a file", advice=advice, where=self._where)
        return mode or default  # as spiffe-helper has it: 0 means that nothing was said

    def _only(self, given: Mapping[str, Value], known: frozenset[str], where: str) -> None:
        if unknown := sorted(set(given) - known):
            inside = f" in {where}" if where else ""
            raise self._wrong(f"unknown keys{inside}: {', '.join(unknown)}")

    @property
    def _where(self) -> Where:
        return Where(file=self._file)

    def _wrong(self, what: str) -> VestibuleError:
        return HELPER_CONFIG.error(what, where=self._where)


def _address(text: str) -> str:
    if not text or text.startswith(("unix:", "tcp:")):
        return text
    return f"unix://{Path(text).absolute()}"


def _integer(text: str) -> int | None:
    """As Go reads an integer whose base is in its prefix; None for what is none."""
    plain = text.replace("_", "")
    octal = len(plain) > 1 and plain[0] == "0" and plain[1].isdigit()
    try:
        return int(plain, 8) if octal else int(plain, 0)
    except ValueError:
        return None


def _arguments(text: str) -> tuple[str, ...]:
    """As spiffe-helper parts them: at blanks, except within double quotes."""
    if not text:
        return ()
    try:
        return tuple(next(csv.reader([text], delimiter=" ", strict=True)))
    except csv.Error as error:
        raise HELPER_CONFIG.error(f"cmd_args cannot be parted: {error}") from error
