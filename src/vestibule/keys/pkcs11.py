"""Keys in a PKCS#11 token: a hardware security module, a smart card, SoftHSM.

The private halves are made in the token, marked sensitive and not extractable, and never leave it: we send it 32
bytes of digest and get a signature back.  A key's label is ``NAMESPACE/ID``: what several servers keep in one token
stays apart, and one never removes what another made.

What a token answers is taken with care, because tokens go away: pulled out, rebooted, behind a cable.  After an
error, and before an answer of "no such key" is believed, the module is initialised anew and the question is asked once
more (SoftHSM, for one, lists no keys at all when its store has vanished).  Only a refused PIN is final: trying it
again would lock the token.
"""

from __future__ import annotations

import asyncio
import re
import ssl
import threading
from collections import defaultdict
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey, EllipticCurvePublicKey
from cryptography.x509 import (
    CertificateBuilder,
    CertificateRevocationListBuilder,
    CertificateSigningRequestBuilder,
)

from vestibule.errors import VestibuleError
from vestibule.keys.codes import (
    MALFORMED_KEY_ID,
    MODULE_UNUSABLE,
    PIN_REFUSED,
    TOKEN_KEY_UNUSABLE,
    TOKEN_UNAVAILABLE,
)
from vestibule.keys.memory import check_key_id, no_such_key, sign, sign_data
from vestibule.keys.secrets import Secret
from vestibule.keys.token_keys import (
    P256,
    TokenKey,
    objects,
    point,
    private_class,
    private_half,
    public_class,
    public_half,
)

if TYPE_CHECKING:
    import pkcs11

_NAMESPACE: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_LOCKS: Final[defaultdict[str, threading.Lock]] = defaultdict(threading.Lock)
"""One per module: modules need not be safe for threads, and whoever initialises one anew does it for all."""

_FINAL: Final = frozenset({PIN_REFUSED.code, MODULE_UNUSABLE.code, TOKEN_KEY_UNUSABLE.code})
"""Errors that a new connection does not mend."""

T = TypeVar("T")


class Pkcs11KeyManager:
    """A ``KeyManager`` whose private keys stay in a token."""

    def __init__(self, module: Path, token: str, pin: Secret, *, namespace: str) -> None:
        """``module`` is the vendor's shared library, ``token`` the token's label.

        Nothing is loaded or opened before the first use.  Raises: VST1100 for a malformed ``namespace``.
        """
        if not _NAMESPACE.fullmatch(namespace):
            raise MALFORMED_KEY_ID.error(f"{namespace[:80]!r} can not be the namespace of keys in a token")
        self._module = str(module)
        self._token = token
        self._pin = pin
        self._prefix = f"{namespace}/"
        self._session: pkcs11.Session | None = None
        self._locked_out: VestibuleError | None = None
        self._keys: dict[str, TokenKey] = {}
        """Handles are good for one session; a signature then costs one call to the token and no search."""
        self._used: set[str] = set()

    async def generate(self, key_id: str) -> EllipticCurvePublicKey:
        """Make a key in the token; one that had this ID is replaced."""
        label = self._label(key_id)
        return await self._ask(lambda session: self._generate(session, key_id, label))

    async def public_key(self, key_id: str) -> EllipticCurvePublicKey:
        """The public half.  Read from the token every time: the token has the last word on what it holds."""
        label = self._label(key_id)
        return await self._ask(lambda session: public_half(session, key_id, label))

    async def sign_certificate(self, key_id: str, builder: CertificateBuilder) -> bytes:
        """Sign what a profile built."""
        return await self._with_key(key_id, lambda key: sign(key, builder))

    async def sign_crl(self, key_id: str, builder: CertificateRevocationListBuilder) -> bytes:
        """Sign what ``pki.crls`` built."""
        return await self._with_key(key_id, lambda key: sign(key, builder))

    async def sign_csr(self, key_id: str, builder: CertificateSigningRequestBuilder) -> bytes:
        """Sign what ``pki.csr`` built."""
        return await self._with_key(key_id, lambda key: sign(key, builder))

    async def sign(self, key_id: str, data: bytes) -> bytes:
        """Sign ``data``."""
        return await self._with_key(key_id, lambda key: sign_data(key, data))

    async def delete(self, key_id: str) -> None:
        """Destroy a key in the token, both halves."""
        label = self._label(key_id)
        await self._ask(lambda session: self._delete(session, key_id, label))

    async def key_ids(self) -> frozenset[str]:
        """The IDs of all keys of this namespace."""

        def listed(session: pkcs11.Session) -> frozenset[str]:
            found = frozenset(self._listed(session))
            if missing := self._used - found:
                raise no_such_key(
                    min(missing)
                )  # we used it: the module is asked again before we believe that
            return found

        try:
            return await self._ask(listed)
        except VestibuleError as error:
            if error.code.name != "no-such-key":
                raise
        self._used.clear()
        return await self._ask(lambda session: frozenset(self._listed(session)))

    async def _with_key(self, key_id: str, use: Callable[[EllipticCurvePrivateKey], T]) -> T:
        label = self._label(key_id)

        def signed(session: pkcs11.Session) -> T:
            if (key := self._keys.get(key_id)) is None:
                public = public_half(session, key_id, label)
                key = self._keys[key_id] = TokenKey(private_half(session, key_id, label), public)
                self._used.add(key_id)
            return use(key)

        return await self._ask(signed)

    async def _ask(self, question: Callable[[pkcs11.Session], T]) -> T:
        """The token's answer; asked again once, after a fresh connection, when it is an error.

        Raises: VST1106, VST1107, VST1108, and what the question raises.
        """
        return await asyncio.to_thread(self._asked, question)

    def _asked(self, question: Callable[[pkcs11.Session], T]) -> T:
        try:
            with _LOCKS[self._module]:
                return self._asked_twice(question)
        finally:
            clear_openssl_errors()

    def _asked_twice(self, question: Callable[[pkcs11.Session], T]) -> T:
        library = _library()
        try:
            return question(self._opened(library, anew=False))
        except (library.PKCS11Error, VestibuleError) as error:
            if isinstance(error, VestibuleError) and error.code.code in _FINAL:
                raise
        try:
            return question(self._opened(library, anew=True))
        except library.PKCS11Error as error:
            self._forget_session()
            raise self._unavailable(error) from error

    def _opened(self, library: Any, *, anew: bool) -> pkcs11.Session:
        if self._locked_out is not None:
            raise self._locked_out
        if self._session is None or anew:
            self._forget_session()
            self._session = self._open(library, anew=anew)
        return self._session

    def _forget_session(self) -> None:
        self._session = None
        self._keys.clear()

    def _open(self, library: Any, *, anew: bool) -> pkcs11.Session:
        module = self._load(library)
        if anew:
            module.reinitialize()
        token = module.get_token(token_label=self._token)
        try:
            session: pkcs11.Session = token.open(rw=True, user_pin=self._pin.reveal())
        except library.UserAlreadyLoggedIn:  # by another user of the module in this process
            session = token.open(rw=True)
        except (library.PinIncorrect, library.PinLocked, library.PinExpired, library.PinInvalid) as error:
            why = {"PinLocked": "the token is locked", "PinExpired": "the PIN has expired"}
            said = why.get(type(error).__name__, "the PIN is wrong")
            self._locked_out = PIN_REFUSED.error(f"the token {self._token!r} refuses the login: {said}")
            raise self._locked_out from None
        return session

    def _load(self, library: Any) -> Any:
        try:
            return library.lib(self._module)
        except library.PKCS11Error as error:
            if "OS exception" in str(error):
                raise MODULE_UNUSABLE.error(
                    f"{self._module} can not be loaded as a PKCS#11 module"
                ) from error
            raise

    def _unavailable(self, error: Exception) -> VestibuleError:
        kind = type(error).__name__
        if kind == "MultipleTokensReturned":
            return TOKEN_UNAVAILABLE.error(f"several tokens have the label {self._token!r}")
        if kind == "NoSuchToken":
            return TOKEN_UNAVAILABLE.error(f"there is no token with the label {self._token!r}")
        return TOKEN_UNAVAILABLE.error(f"the token {self._token!r} does not answer ({kind})")

    def _label(self, key_id: str) -> str:
        return self._prefix + check_key_id(key_id)

    def _listed(self, session: pkcs11.Session) -> list[str]:
        labels = [str(found.label) for found in objects(session, private_class())]
        return [label.removeprefix(self._prefix) for label in labels if label.startswith(self._prefix)]

    def _generate(self, session: pkcs11.Session, key_id: str, label: str) -> EllipticCurvePublicKey:
        import pkcs11

        self._delete(session, key_id, label)
        parameters = session.create_domain_parameters(
            pkcs11.KeyType.EC, {pkcs11.Attribute.EC_PARAMS: P256}, local=True
        )
        public, _ = parameters.generate_keypair(
            store=True,
            label=label,
            id=label.encode(),
            capabilities=pkcs11.MechanismFlag.SIGN | pkcs11.MechanismFlag.VERIFY,
            private_template={
                pkcs11.Attribute.PRIVATE: True,
                pkcs11.Attribute.SENSITIVE: True,
                pkcs11.Attribute.EXTRACTABLE: False,
            },
        )
        self._used.add(key_id)
        return point(key_id, public)

    def _delete(self, session: pkcs11.Session, key_id: str, label: str) -> None:
        self._keys.pop(key_id, None)
        self._used.discard(key_id)
        for kind in (private_class(), public_class()):
            for found in objects(session, kind, label):
                found.destroy()


def clear_openssl_errors() -> None:
    """Forget what went wrong inside of a module in this thread.

    Modules that are built on OpenSSL, as SoftHSM is, share it with Python, and leave errors of theirs in the thread's
    queue: whoever loads certificates in this thread next would take them for errors of that.  Python has no call for
    it; an operation that fails on purpose empties the queue.
    """
    with suppress(ssl.SSLError):
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).set_ciphers("none of these")


def _library() -> Any:
    try:
        import pkcs11
    except ImportError as error:
        raise MODULE_UNUSABLE.error("the package python-pkcs11 is not installed") from error
    return pkcs11
