"""An offline root: what it signed and revoked, by its own transcript, and what it signs next.

There is no database: the transcript is the record, and it is read and checked from its first step before anything
is done.  A step is on disk before what it tells of leaves the directory.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from vestibule.identity.ca.codes import ALREADY_REVOKED, CA_UNUSABLE
from vestibule.identity.ca.files import (
    TRANSCRIPT,
    Transcript,
    make_directory,
    read,
    refuse_existing,
    write_new,
)
from vestibule.identity.ca.register import Issued, Policy, Register, issued_in, replayed
from vestibule.identity.ca.requests import Request, read_answer
from vestibule.keys import KeyManager
from vestibule.keys.files import write_private
from vestibule.pki.certificates import load_certificate
from vestibule.pki.codes import REQUEST_REFUSED
from vestibule.pki.crls import RevokedSerial, crl_builder
from vestibule.pki.keys import public_key_der
from vestibule.pki.pem import CERTIFICATE, CRL, pem_block, pem_blocks
from vestibule.pki.profiles import Issuer, authority_id, intermediate_ca, lifetime, self_signed_ca
from vestibule.pki.transcripts import check_signers
from vestibule.spiffe import TrustDomain

KEY_ID: Final = "root"
CERTIFICATE_FILE: Final = "root.pem"
KEY_FILE: Final = "root.key"
CRL_FILE: Final = "root.crl"
ISSUED: Final = "issued"


class Root:
    """The root in a directory.  Looking needs no key; whatever is signed needs the key manager that holds it."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._transcript = Transcript(directory)

    @property
    def key_file(self) -> Path:
        """Where the key is, if it is in a file."""
        return self._directory / KEY_FILE

    def certificate(self) -> x509.Certificate:
        """The root's own.  Raises: VST1381, VST1032, VST1005."""
        (der, *_) = pem_blocks(read(self._directory / CERTIFICATE_FILE), CERTIFICATE)
        return load_certificate(der)

    def register(self) -> Register:
        """Read the transcript, from its first step.  Raises: VST1030, VST1381."""
        steps = self._transcript.steps()
        certificate = self.certificate()
        check_signers(steps, {public_key_der(certificate.public_key())})  # type: ignore[arg-type]
        if not steps or steps[0].step.action != "init":
            raise CA_UNUSABLE.error("the transcript does not begin with the making of the root")
        if steps[0].step.facts.get("certificate-sha256") != _sha256(certificate):
            raise CA_UNUSABLE.error(f"{CERTIFICATE_FILE} is not the certificate that the transcript tells of")
        return replayed(steps)

    def refuse_existing(self) -> None:
        """A directory has one root, for ever.  Raises: VST1380."""
        names = (KEY_FILE, CERTIFICATE_FILE, TRANSCRIPT)
        refuse_existing(*(self._directory / name for name in names))

    async def init(
        self,
        name: str,
        trust_domain: TrustDomain,
        keys: KeyManager,
        where: str,
        policy: Policy,
        ttl: timedelta,
        now: datetime,
    ) -> x509.Certificate:
        """Make the root's certificate, for the key ``root`` that ``keys`` has; ``where`` says where the key is.

        ``name`` is one that ``check_name`` lets pass.  Raises: VST1380, VST1381, errors of keys.
        """
        public_key = await keys.public_key(KEY_ID)
        builder = self_signed_ca(trust_domain, public_key, lifetime(now, ttl), name)
        der = await keys.sign_certificate(KEY_ID, builder)
        certificate = load_certificate(der)
        facts = {
            "name": name,
            "trust-domain": str(trust_domain),
            "keys": where,
            "key-id": authority_id(public_key),
            "certificate-sha256": _sha256(certificate),
            "not-after": certificate.not_valid_after_utc.isoformat(),
            "max-intermediate-seconds": str(int(policy.max_lifetime.total_seconds())),
            "max-path-length": str(policy.max_path_length),
        }
        await self._transcript.add("init", facts, now, keys, KEY_ID)
        write_new(self._directory / CERTIFICATE_FILE, pem_block(CERTIFICATE, der))
        return certificate

    def check(
        self, request: Request, ttl: timedelta | None, path_length: int, now: datetime, expected_key: str = ""
    ) -> timedelta:
        """Hold a request against the policy; returns the lifetime that it gets.

        1. It is for the root's own trust domain.
        2. Neither its name nor its key was signed before, nor is the key the root's own.
        3. The lifetime and the path length are within the policy.
        4. The root outlives the intermediate: a chain that ends in the middle of its life surprises people.
        5. If somebody read the key's identifier out aloud, it is that one.

        Raises: VST1031.
        """
        register, certificate = self.register(), self.certificate()
        if request.trust_domain != register.trust_domain:  # 1
            raise REQUEST_REFUSED.error(
                f"the request is for {request.trust_domain}, the root for {register.trust_domain}"
            )
        own = authority_id(certificate.public_key())  # type: ignore[arg-type]
        if request.key_id == own:  # 2
            raise REQUEST_REFUSED.error("the request is for the root's own key")
        for each in register.issued:
            if each.name == request.name:
                raise REQUEST_REFUSED.error(f"an intermediate named {each.name} was signed before")
            if each.key_id == request.key_id:
                raise REQUEST_REFUSED.error(f"this key was signed before, as {each.name}")
        ttl = ttl or register.policy.max_lifetime
        if ttl > register.policy.max_lifetime:  # 3
            raise REQUEST_REFUSED.error(
                f"a lifetime of {ttl.days} days is longer than the policy's {register.policy.max_lifetime.days}"
            )
        if not 0 <= path_length <= register.policy.max_path_length:
            raise REQUEST_REFUSED.error(
                f"a path length of {path_length} is not within the policy's {register.policy.max_path_length}"
            )
        if now + ttl > certificate.not_valid_after_utc:  # 4
            raise REQUEST_REFUSED.error(
                f"the root itself ends on {certificate.not_valid_after_utc.date()}, before the intermediate would"
            )
        if expected_key and expected_key.lower().replace(":", "") != request.key_id:  # 5
            raise REQUEST_REFUSED.error(
                f"the request is for the key {request.key_id}, not for the expected one"
            )
        return ttl

    async def sign(
        self,
        request: Request,
        keys: KeyManager,
        now: datetime,
        *,
        ttl: timedelta | None = None,
        path_length: int = 1,
        expected_key: str = "",
    ) -> tuple[Issued, bytes]:
        """Sign a request that ``check`` lets pass; returns what to hand back to whoever asked.

        Raises: VST1031, VST1030, VST1381, errors of keys.
        """
        ttl = self.check(request, ttl, path_length, now, expected_key)
        register, root = self.register(), self.certificate()
        issuer = Issuer.of(root.public_bytes(Encoding.DER), register.trust_domain)
        valid = lifetime(now, ttl, issuer.not_after)
        builder = intermediate_ca(request.public_key, valid, issuer, path_length, request.name)
        der = await keys.sign_certificate(KEY_ID, builder)
        certificate = load_certificate(der)
        facts = {
            "name": request.name,
            "trust-domain": str(request.trust_domain),
            "key-id": request.key_id,
            "request-sha256": request.sha256,
            "request-step": request.step.step.hash if request.step else "none",
            "checked": "possession trust-domain name key lifetime path-length"
            + (" expected-key" if expected_key else ""),
            "certificate-sha256": _sha256(certificate),
            "serial": f"{certificate.serial_number:x}",
            "not-before": valid.not_before.isoformat(),
            "not-after": valid.not_after.isoformat(),
            "path-length": str(path_length),
        }
        # As whoever asked will check it: a faulty signature is found while all are still in the room.
        read_answer(
            pem_block(CERTIFICATE, der),
            request.name,
            request.public_key,
            [root.public_bytes(Encoding.DER)],
            register.trust_domain,
            now,
            signers_below=path_length,
        )
        step = await self._transcript.add("sign", facts, now, keys, KEY_ID)
        answer = step.render().encode() + pem_block(CERTIFICATE, der)
        make_directory(self._directory / ISSUED)
        write_new(self._directory / ISSUED / f"{request.name}.pem", answer)
        return issued_in(step), answer

    async def revoke(self, name_or_serial: str, reason: str, keys: KeyManager, now: datetime) -> Issued:
        """Take an intermediate back, for good.  The world learns of it by the next ``crl``.

        Raises: VST1382, VST1383, VST1017 (reason), VST1030, VST1381, errors of keys.
        """
        found = self.register().find(name_or_serial)
        if found.revoked is not None:
            raise ALREADY_REVOKED.error(f"{found.name} was revoked at {found.revoked.at.isoformat()}")
        entry = RevokedSerial(serial=found.serial, at=now.replace(microsecond=0), reason=reason)
        crl_builder(self.certificate(), [entry], number=0, now=now, next_update=now + timedelta(days=1))
        facts = {
            "name": found.name,
            "serial": f"{found.serial:x}",
            "reason": reason,
            "revoked-at": entry.at.isoformat(),
        }
        await self._transcript.add("revoke", facts, now, keys, KEY_ID)
        return replace(found, revoked=entry)

    async def crl(self, keys: KeyManager, now: datetime, valid_for: timedelta) -> tuple[int, bytes]:
        """The next list of what is revoked, as PEM, and its number.  Raises: VST1030, VST1381, errors of keys."""
        register, root = self.register(), self.certificate()
        number, next_update = register.crl_number + 1, now + valid_for
        builder = crl_builder(root, register.revoked, number=number, now=now, next_update=next_update)
        der = await keys.sign_crl(KEY_ID, builder)
        facts = {
            "number": str(number),
            "revoked": str(len(register.revoked)),
            "crl-sha256": hashlib.sha256(der).hexdigest(),
            "next-update": next_update.replace(microsecond=0).isoformat(),
        }
        await self._transcript.add("crl", facts, now, keys, KEY_ID)
        pem = pem_block(CRL, der)
        try:
            write_private(self._directory / CRL_FILE, pem)  # the newest; older ones are worth nothing
        except OSError as error:
            raise CA_UNUSABLE.error(f"{CRL_FILE} cannot be written: {error.strerror}") from error
        return number, pem


def _sha256(certificate: x509.Certificate) -> str:
    return hashlib.sha256(certificate.public_bytes(Encoding.DER)).hexdigest()
