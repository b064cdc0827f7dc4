"""What stands in files of SVIDs."""

from __future__ import annotations

import base64
import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from vestibule.calls.workload_api import X509Context
from vestibule.errors import VestibuleError
from vestibule.pki.pem import CERTIFICATE, pem_block
from vestibule.sdk.files.codes import BAD_LAYOUT, HINT_UNKNOWN
from vestibule.sdk.files.contents import File, JwtFile, Layout
from vestibule.testing import TestAuthority

NOW = datetime(2026, 5, 1, tzinfo=UTC)
AUTHORITY = TestAuthority("example.org", now=NOW, intermediates=1)
OTHER = TestAuthority("other.org", now=NOW)


@pytest.fixture
def context() -> X509Context:
    a, b = (AUTHORITY.svid(f"/{name}", now=NOW) for name in ("a", "b"))
    return X509Context(svids=(a, replace(b, hint="second")), bundles=(AUTHORITY.bundle, OTHER.bundle))


def files(layout: Layout, context: X509Context, now: datetime = NOW) -> dict[str, File]:
    layout.check()
    return {file.name: file for file in layout.x509_files(context, now)}


def certificates(file: File) -> int:
    return file.data.count(b"BEGIN CERTIFICATE")


def test_every_identity_has_its_numbered_files(context: X509Context) -> None:
    found = files(Layout(), context)
    kinds = (("svid", "pem"), ("svid", "key"), ("bundle", "pem"))
    assert set(found) == {f"{name}.{number}.{end}" for number in "01" for name, end in kinds}
    assert (found["svid.0.key"].mode, found["svid.0.key"].secret) == (0o600, True)
    assert (found["svid.0.pem"].mode, found["svid.0.pem"].secret) == (0o644, False)
    assert certificates(found["svid.1.pem"]) == 2, "the leaf and its intermediate"


def test_one_identity_has_files_of_given_names_and_modes(context: X509Context) -> None:
    found = files(
        Layout(certificate="tls.crt", key="tls.key", combined="tls.pem", key_mode=0o640, federated=True),
        context,
    )
    assert list(found) == ["tls.key", "tls.crt", "tls.pem"], "keys first"
    assert found["tls.pem"].data == found["tls.key"].data + found["tls.crt"].data
    assert found["tls.pem"].mode == 0o640


def test_bundles_hold_what_was_asked_for(context: X509Context) -> None:
    layout = Layout(certificate="c", key="k", bundle="ca.pem")
    assert certificates(files(layout, context)["ca.pem"]) == 1
    assert certificates(files(replace(layout, federated=True), context)["ca.pem"]) == 2
    moved = files(replace(layout, chain_in_bundle=True), context)
    assert (certificates(moved["c"]), certificates(moved["ca.pem"])) == (1, 2)
    assert pem_block(CERTIFICATE, AUTHORITY.intermediates[0]) in moved["ca.pem"].data


def test_authorities_that_ended_are_left_out_where_that_is_wanted(context: X509Context) -> None:
    later = NOW + timedelta(days=2)
    layout = Layout(bundle="ca.pem", federated=True)
    assert certificates(files(layout, context, later)["ca.pem"]) == 2
    assert files(replace(layout, omit_expired=True), context, later)["ca.pem"].data == b""


def test_a_hint_chooses_and_an_unknown_one_is_said(context: X509Context) -> None:
    by_hint = files(Layout(hint="second"), context)
    assert by_hint["svid.key"].data == files(Layout(), context)["svid.1.key"].data
    with pytest.raises(VestibuleError) as raised:
        files(Layout(hint="third"), context)
    assert raised.value.code is HINT_UNKNOWN


@pytest.mark.parametrize(
    "layout",
    [
        Layout(certificate="../c"),
        Layout(certificate="/c"),
        Layout(certificate=".."),
        Layout(certificate="current"),
        Layout(key=".generation-1"),
        Layout(key=".lock"),
        Layout(certificate="c", key="c"),
        Layout(certificate="c", jwts=(JwtFile(name="c", audience=("db",)),)),
        Layout(pkcs12="k.p12"),
        Layout(jks_trust="t.jks"),
    ],
)
def test_what_cannot_be_written_is_refused(layout: Layout) -> None:
    with pytest.raises(VestibuleError) as raised:
        layout.check()
    assert raised.value.code is BAD_LAYOUT


def test_tokens_alone_need_no_certificate() -> None:
    assert not Layout(jwts=(JwtFile(name="t", audience=("db",)),)).has_x509
    assert not Layout(jwt_bundle="keys.json").has_x509
    assert Layout().has_x509
    assert Layout(jwt_bundle="keys.json", key="k").has_x509


def test_a_token_file_holds_the_token_of_the_chosen_identity() -> None:
    jwt = JwtFile(name="db.token", audience=("db",))
    first, second = AUTHORITY.jwt_svid("/a", "db"), replace(AUTHORITY.jwt_svid("/b", "db"), hint="second")
    file = Layout(jwts=(jwt,)).jwt_file(jwt, [first, second])
    assert (file.data.decode(), file.mode, file.secret) == (first.token, 0o600, True)
    assert Layout(jwts=(jwt,), hint="second").jwt_file(jwt, [first, second]).data.decode() == second.token


def test_keys_of_tokens_are_a_jwk_set_or_one_for_each_trust_domain() -> None:
    bundles = [AUTHORITY.jwt_bundle, OTHER.jwt_bundle]
    layout = Layout(jwt_bundle="keys.json")

    def written(layout: Layout, own: bool = True) -> dict[str, dict[str, object]]:
        found = layout.jwt_bundle_file(bundles, AUTHORITY.trust_domain if own else None)
        return dict(json.loads(found.data))

    assert set(written(layout)) == {"keys"}
    assert set(written(replace(layout, federated=True))["trust_domains"]) == {"example.org", "other.org"}
    assert set(written(layout, own=False)["trust_domains"]) == {"example.org", "other.org"}
    of_helper = written(replace(layout, jwt_bundle_of_helper=True))
    assert "keys" in json.loads(base64.b64decode(str(of_helper["example.org"])))


def test_no_secret_is_in_a_representation(context: X509Context) -> None:
    layout = Layout(pkcs12="k.p12", key="k", password="correct horse")
    assert "correct horse" not in repr(layout)
    assert "PRIVATE" not in repr(layout.x509_files(context, NOW))
