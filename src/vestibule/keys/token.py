"""A connection to a PKCS#11 token, which may go away and come back.

What a token answers is taken with care, because tokens go away: pulled out, rebooted, behind a cable.  After an
error, and before an answer of "no such key" is believed, the module is initialised anew and the question is asked once
more (SoftHSM, for one, lists no keys at all when its store has vanished).  Only a refused PIN is final: trying it
again would lock the token.
"""

from __future__ import annotations

import asyncio
import ssl
import threading
from collections import defaultdict
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

from vestibule.errors import VestibuleError
from vestibule.keys.codes import MODULE_UNUSABLE, PIN_REFUSED, TOKEN_KEY_UNUSABLE, TOKEN_UNAVAILABLE
from vestibule.keys.secrets import Secret

if TYPE_CHECKING:
    import pkcs11

_LOCKS: Final[defaultdict[str, threading.Lock]] = defaultdict(threading.Lock)
"""One per module: modules need not be safe for threads, and whoever initialises one anew does it for all."""

_FINAL: Final = frozenset({PIN_REFUSED.code, MODULE_UNUSABLE.code, TOKEN_KEY_UNUSABLE.code})
"""Errors that a new connection does not mend."""

T = TypeVar("T")


class Token:
    """One token, by its label; nothing is loaded or opened before the first question."""

    def __init__(
        self, module: Path, label: str, pin: Secret, *, forget: Callable[[], None] = lambda: None
    ) -> None:
        """``forget`` is called when a session ends, and with it every handle of an object."""
        self._module = str(module)
        self._label = label
        self._pin = pin
        self._forget = forget
        self._session: pkcs11.Session | None = None
        self._locked_out: VestibuleError | None = None

    async def ask(self, question: Callable[[pkcs11.Session], T]) -> T:
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
        self._forget()

    def _open(self, library: Any, *, anew: bool) -> pkcs11.Session:
        module = self._load(library)
        if anew:
            module.reinitialize()
        token = module.get_token(token_label=self._label)
        try:
            session: pkcs11.Session = token.open(rw=True, user_pin=self._pin.reveal())
        except library.UserAlreadyLoggedIn:  # by another user of the module in this process
            session = token.open(rw=True)
        except (library.PinIncorrect, library.PinLocked, library.PinExpired, library.PinInvalid) as error:
            why = {"PinLocked": "the token is locked", "PinExpired": "the PIN has expired"}
            said = why.get(type(error).__name__, "the PIN is wrong")
            self._locked_out = PIN_REFUSED.error(f"the token {self._label!r} refuses the login: {said}")
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
            return TOKEN_UNAVAILABLE.error(f"several tokens have the label {self._label!r}")
        if kind == "NoSuchToken":
            return TOKEN_UNAVAILABLE.error(f"there is no token with the label {self._label!r}")
        return TOKEN_UNAVAILABLE.error(f"the token {self._label!r} does not answer ({kind})")


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
