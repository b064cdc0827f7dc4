"""Attestation by an EC2 instance identity document, which AWS signed.

The payload is SPIRE's: ``{"document", "signature", "rsa2048"}``.  The ``rsa2048`` signature (CMS) is verified with
AWS's published certificate of the region, and *the document inside it* is the one that is read; an older agent's
``signature`` (RSA-1024) counts only where the operator permits it.  The agent becomes
``…/aws_iid/ACCOUNT/REGION/INSTANCE``.  Documents do not expire and every process on the instance can read them,
so only the first attestation of an instance counts.

Selectors: ``aws_iid:account_id``, ``az``, ``image:id``, ``instance:id``, ``region``.  Nothing is asked of AWS's
API: that the instance still runs, and its tags, are not known.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from vestibule.attest.documents import json_object, text_at
from vestibule.attest.node.cms import CmsError, signed_content
from vestibule.attest.node.codes import (
    EVIDENCE_REFUSED,
    MALFORMED_EVIDENCE,
    NO_EVIDENCE,
    UNEXPECTED_CHALLENGE,
    UNSAFE_ATTESTOR,
)
from vestibule.attest.node.evidence import agent_named, evidence_object, selectors
from vestibule.attest.node.ports import AttestedNode, Challenge
from vestibule.attest.ports import Http
from vestibule.spiffe import TrustDomain

NAME: Final = "aws_iid"
TOKEN_SECONDS: Final = 60
_DYNAMIC: Final = "/latest/dynamic/instance-identity/"
_REGION = re.compile(r"[a-z]{2}(-[a-z]+){1,3}-[0-9]{1,2}")
_ACCOUNT = re.compile(r"[0-9]{12}")


@dataclass(frozen=True, slots=True, kw_only=True)
class AwsIidSettings:
    """``accounts`` are those whose instances are nodes.

    ``certificates`` is a directory with AWS's published certificates, ``REGION.pem`` for each region that nodes are
    in; a file may hold several.  ``allow_rsa1024`` also accepts the older signature, of a key that is too short.
    """

    accounts: tuple[str, ...]
    certificates: Path
    allow_rsa1024: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class AwsIidProofSettings:
    """Where the instance metadata service is."""

    metadata: str = "169.254.169.254:80"


class AwsIidAttestor:
    """The server's half."""

    name = NAME

    def __init__(self, settings: AwsIidSettings, trust_domain: TrustDomain) -> None:
        """Raises: VST2009."""
        if not settings.accounts or not all(_ACCOUNT.fullmatch(each) for each in settings.accounts):
            raise UNSAFE_ATTESTOR.error(
                "the accounts of the nodes (12 digits) are not set: every AWS customer could attest"
            )
        self._settings = settings
        self._trust_domain = trust_domain
        self._keys = _keys_by_region(settings.certificates)

    async def attest(self, payload: bytes, challenge: Challenge, now: datetime) -> AttestedNode:
        """Raises: VST2003 (malformed), VST2004 (refused).

        1. AWS's key of a region signed a document; only that document is read from here on.
        2. It is the one that the agent sent beside it, and of the region whose key signed it.
        3. Its account is one of ours.
        """
        document = self._verified(evidence_object(payload))
        account, region = text_at(document, "accountId"), text_at(document, "region")
        if account not in self._settings.accounts:  # 3
            raise EVIDENCE_REFUSED.error(
                f"account {account or '?'} is not among those whose nodes may attest"
            )
        values = {
            "account_id": account,
            "region": region,
            "az": text_at(document, "availabilityZone"),
            "image:id": text_at(document, "imageId"),
            "instance:id": text_at(document, "instanceId"),
        }
        return AttestedNode(
            agent_id=agent_named(self._trust_domain, NAME, account, region, values["instance:id"]),
            selectors=selectors(NAME, [f"{key}:{value}" for key, value in values.items() if value]),
            first_use_only=True,
        )

    def _verified(self, evidence: Mapping[str, Any]) -> dict[str, Any]:
        claimed = text_at(evidence, "document").encode()
        # The region that is claimed only chooses the key; whether it is true shows below.
        keys = self._keys.get(text_at(_document(claimed), "region"))
        if keys is None:
            raise EVIDENCE_REFUSED.error("there is no AWS certificate for the region of the instance")
        content = self._signed(evidence, claimed, keys)  # 1
        if content != claimed:  # 2
            raise EVIDENCE_REFUSED.error("the signed document is another one than the document")
        return _document(content)

    def _signed(self, evidence: Mapping[str, Any], claimed: bytes, keys: Sequence[rsa.RSAPublicKey]) -> bytes:
        if text := text_at(evidence, "rsa2048"):
            try:
                return signed_content(_base64(text), [key for key in keys if key.key_size >= 2048])
            except CmsError as error:
                raise EVIDENCE_REFUSED.error(f"AWS did not sign the document: {error}") from error
        if not self._settings.allow_rsa1024:
            raise EVIDENCE_REFUSED.error("the document comes without the signature rsa2048")
        signature = _base64(text_at(evidence, "signature"))
        for key in keys:
            try:
                key.verify(signature, claimed, padding.PKCS1v15(), hashes.SHA256())
            except InvalidSignature:
                continue
            return claimed
        raise EVIDENCE_REFUSED.error("AWS did not sign the document")


def _document(data: bytes) -> dict[str, Any]:
    try:
        return json_object(data)
    except ValueError:
        raise MALFORMED_EVIDENCE.error("the instance identity document is not JSON") from None


def _base64(text: str) -> bytes:
    # The metadata service breaks lines.
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError):
        raise MALFORMED_EVIDENCE.error("a signature is not base64") from None


def _keys_by_region(directory: Path) -> dict[str, list[rsa.RSAPublicKey]]:
    found: dict[str, list[rsa.RSAPublicKey]] = {}
    try:
        for file in sorted(directory.iterdir()):
            if file.suffix == ".pem" and _REGION.fullmatch(file.stem):
                keys = [each.public_key() for each in x509.load_pem_x509_certificates(file.read_bytes())]
                found[file.stem] = [key for key in keys if isinstance(key, rsa.RSAPublicKey)]
    except (OSError, ValueError) as error:
        raise UNSAFE_ATTESTOR.error(f"the AWS certificates in {directory} cannot be read: {error}") from error
    if not any(found.values()):
        raise UNSAFE_ATTESTOR.error(f"{directory} holds no REGION.pem with an RSA certificate")
    return found


class AwsIidProof:
    """The agent's half."""

    name = NAME
    single_use = False

    def __init__(self, metadata: Http) -> None:
        self._metadata = metadata

    async def payload(self) -> bytes:
        """Document and signatures, by IMDSv2.  Raises: VST2008, VST2340, VST2341."""
        lifetime = {"X-aws-ec2-metadata-token-ttl-seconds": str(TOKEN_SECONDS)}
        token = await self._ask("PUT", "/latest/api/token", lifetime)
        shown = {"X-aws-ec2-metadata-token": token}
        parts = {
            name: await self._ask("GET", _DYNAMIC + name, shown)
            for name in ("document", "signature", "rsa2048")
        }
        return json.dumps(parts).encode()

    async def respond(self, challenge: bytes) -> bytes:
        """There are no challenges.  Raises: VST2002."""
        raise UNEXPECTED_CHALLENGE.error("the server challenged an instance identity document")

    async def close(self) -> None:
        """There is nothing to put away."""

    async def _ask(self, method: str, target: str, headers: Mapping[str, str]) -> str:
        answer = await self._metadata(method, target, headers=headers)
        if answer.status != 200:
            raise NO_EVIDENCE.error(f"the metadata service answers {answer.status} to {target}")
        return answer.body.decode("utf-8", "replace")
