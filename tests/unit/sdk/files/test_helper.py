"""Configurations of spiffe-helper: read as it reads them."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vestibule.errors import VestibuleError
from vestibule.sdk.files.codes import HELPER_CONFIG
from vestibule.sdk.files.contents import JwtFile, Layout
from vestibule.sdk.files.hcl import Number, read_hcl
from vestibule.sdk.files.health import HealthPages
from vestibule.sdk.files.helper import HelperConfiguration, read_helper_configuration

FULL = """
# every key there is
agent_address = "/run/agent.sock"
cmd = "ghostunnel"
cmd_args = "server --listen localhost:8002 \\"one argument\\" \\"with \\"\\"quotes\\"\\"\\""
pid_file_name = "/run/x.pid"
cert_dir = "certs"
daemon_mode = true
add_intermediates_to_bundle = true
renew_signal = "SIGUSR1"
svid_file_name = "svid.pem"
svid_key_file_name = "svid_key.pem"
svid_bundle_file_name = "svid_bundle.pem"
jwt_svids = [{jwt_audience="a", jwt_extra_audiences=["b", "c"], jwt_svid_file_name="jwt.token"},
             {jwt_audience="d", jwt_svid_file_name="d.token"}]
jwt_bundle_file_name = "bundle.json" // a comment
include_federated_domains = true
cert_file_mode = 0444
key_file_mode = 0440
jwt_bundle_file_mode = "0444"
jwt_svid_file_mode = 0o400
hint = "web"
omit_expired = true
/* and the
   last one */
health_checks {
  listener_enabled = true
  bind_port = 8089
  liveness_path = "/alive"
}
"""
LEAST = 'svid_file_name = "c"\nsvid_key_file_name = "k"\nsvid_bundle_file_name = "b"\n'


def read(tmp_path: Path, text: str) -> HelperConfiguration:
    path = tmp_path / "helper.conf"
    path.write_text(text)
    return read_helper_configuration(path)


def refused(tmp_path: Path, text: str) -> str:
    with pytest.raises(VestibuleError) as raised:
        read(tmp_path, text)
    assert raised.value.code is HELPER_CONFIG
    return str(raised.value)


def test_every_key_has_its_meaning(tmp_path: Path) -> None:
    found = read(tmp_path, FULL)
    assert (found.address, found.directory, found.daemon) == ("unix:///run/agent.sock", Path("certs"), True)
    assert found.layout == Layout(
        certificate="svid.pem",
        key="svid_key.pem",
        bundle="svid_bundle.pem",
        hint="web",
        certificate_mode=0o444,
        key_mode=0o440,
        federated=True,
        chain_in_bundle=True,
        omit_expired=True,
        jwts=(JwtFile(name="jwt.token", audience=("a", "b", "c")), JwtFile(name="d.token", audience=("d",))),
        jwt_mode=0o400,
        jwt_bundle="bundle.json",
        jwt_bundle_mode=0o444,
        jwt_bundle_of_helper=True,
    )
    words = ("ghostunnel", "server", "--listen", "localhost:8002", "one argument", 'with "quotes"')
    assert found.reload.process == words
    assert (found.reload.signal_name, found.reload.pid_file) == ("SIGUSR1", Path("/run/x.pid"))
    assert found.health == HealthPages(port=8089, live="/alive", ready="/ready")


def test_what_is_left_out_has_spiffe_helpers_defaults(tmp_path: Path) -> None:
    found = read(tmp_path, LEAST)
    assert (found.address, found.directory, found.daemon, found.health) == ("", Path(), True, None)
    assert (found.layout.certificate_mode, found.layout.key_mode) == (0o644, 0o600)
    assert (found.layout.jwt_bundle_mode, found.layout.jwt_mode) == (0o600, 0o600)
    assert not found.reload.is_needed


def test_a_signal_without_anybody_to_get_it_is_passed_over(tmp_path: Path) -> None:
    assert not read(tmp_path, LEAST + 'renew_signal = "SIGHUP"').reload.is_needed


def test_outside_of_daemon_mode_nobody_is_told(tmp_path: Path) -> None:
    found = read(tmp_path, LEAST + 'daemon_mode = false\ncmd = "x"\nrenew_signal = "SIGHUP"')
    assert (found.daemon, found.reload.is_needed) == (False, False)


def test_json_is_read_too_with_its_decimal_modes(tmp_path: Path) -> None:
    document = {
        "svid_file_name": "c",
        "svid_key_file_name": "k",
        "svid_bundle_file_name": "b",
        "key_file_mode": 0o640,
        "cert_file_mode": "0644",
        "jwt_svids": [{"jwt_audience": "a", "jwt_svid_file_name": "t"}],
        "health_checks": {"listener_enabled": True, "bind_port": 8099},
    }
    found = read(tmp_path, json.dumps(document))
    assert (found.layout.key_mode, found.layout.certificate_mode) == (0o640, 0o644)
    assert found.health == HealthPages(port=8099)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "names no file"),
        ('svid_file_name = "c"', "belong together"),
        (LEAST + "svid_fil_name = 1", "unknown keys: svid_fil_name"),
        (LEAST + 'hint = "a"\nhint = "b"', ":5:5: VST2455 hint is given twice"),
        (LEAST + "hint = 1", "hint is a string"),
        (LEAST + "key_file_mode = 444", "key_file_mode is no mode"),
        (LEAST + "key_file_mode = 07777", "key_file_mode is no mode"),
        (LEAST + "daemon_mode = 1", "true or false"),
        (LEAST + "daemon_mode = yes", "a value has to stand"),
        (LEAST + 'pid_file_name = "x"', "needs a renew_signal"),
        (LEAST + 'daemon_mode = false\npid_file_name = "x"\nrenew_signal="SIGHUP"', "with daemon_mode only"),
        (LEAST + "jwt_svids = 1", "list of objects"),
        (LEAST + "jwt_svids = [1]", "is an object"),
        (LEAST + 'jwt_svids = [{jwt_audience="a"}]', "needs jwt_audience and jwt_svid_file_name"),
        (LEAST + 'jwt_svids = [{audience="a"}]', "unknown keys in jwt_svids[0]: audience"),
        (LEAST + 'jwt_svids = ["a" "b"]', "lacks a comma"),
        (LEAST + "health_checks = 1", "is a block"),
        (LEAST + "health_checks { listener_enabled = true, bind_port = 70000 }", "is a port"),
        (LEAST + "health_checks {", "ends before }"),
        (LEAST + "}", "a key has to stand"),
        (LEAST + 'cmd = "a', "a value has to stand"),
        (LEAST + "cmd", "neither = nor a block"),
        (LEAST + "x = " + "[" * 100, "nested too deeply"),
        ('{"svid_file_name": ', "not JSON"),
        (LEAST + 'cmd = "x"\ncmd_args = "a \\"b"', "cannot be parted"),
    ],
)
def test_what_cannot_be_done_is_refused_with_its_place(tmp_path: Path, text: str, said: str) -> None:
    assert said in refused(tmp_path, text)


def test_a_file_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(VestibuleError) as raised:
        read_helper_configuration(tmp_path / "none")
    assert raised.value.code is HELPER_CONFIG


def test_numbers_keep_their_text_and_strings_lose_their_escapes() -> None:
    found = read_hcl('a = 0644\nb = "x\\ny\\"z"\nc { d = [true, [false]] }\n"e" = -1', "f")
    assert found == {
        "a": Number("0644"),
        "b": 'x\ny"z',
        "c": {"d": [True, [False]]},
        "e": Number("-1"),
    }


@given(st.text(alphabet='{}[]=",:#/*\\ \n0a-"', max_size=60))
def test_whatever_stands_in_a_file_is_read_or_refused(text: str) -> None:
    with suppress(VestibuleError):
        read_hcl(text, "f")
