"""A harmless question after a handshake, and what its answer says about the caller."""

from __future__ import annotations

from typing import Final

from h2.connection import H2Connection
from h2.events import ConnectionTerminated, Event, ResponseReceived, StreamReset
from h2.exceptions import ProtocolError

from vestibule.diagnose.scan.session import Ending, Session
from vestibule.posture import Answer, Outcome, Target, printable

QUIET: Final = 0.3
"""Seconds in which a refusal is expected at once, on a network that is quick."""
QUIET_LONG: Final = 2.0
"""The same, of an endpoint that seems to be slow."""
_ENOUGH: Final = 4096
_FORBIDDEN: Final = frozenset({403, 495, 496})
"""403, and what nginx says inside of a wrong and a missing certificate."""
_BAD_REQUEST: Final = 400
_POSTGRES_START: Final = b"\0\0\0\x35\0\x03\0\0user\0vestibule-scan\0database\0vestibule-scan\0\0"
"""StartupMessage, protocol 3.0: its length, 53, stands first."""
_AGENT: Final = "vestibule-scan"


def request(target: Target) -> bytes:
    """The same question with and without TLS."""
    return (
        f"GET / HTTP/1.1\r\nHost: {target}\r\nUser-Agent: {_AGENT}\r\nAccept: */*\r\nConnection: close\r\n\r\n"
    ).encode("ascii")


async def ask(
    session: Session, target: Target, *, wary: bool, quiet: float, patience: float, protocol: str = ""
) -> Answer | None:
    """How the endpoint treats the caller.

    ``wary``: it asked for a certificate, so wait ``quiet`` seconds for a refusal before asking.  ``patience`` is
    for the answer.  ``protocol`` began with STARTTLS.  None: it cannot be told; ask again with a longer ``quiet``.
    """
    first = b""
    if wary:
        said = await session.watch(quiet)
        if isinstance(said, Ending) and said is not Ending.DONE:
            return refusal(session, said)
        if isinstance(said, bytes):
            first = said
    if protocol == "postgres":
        return await _ask_postgres(session, patience)
    if session.seen.alpn == "h2":
        return await _ask_h2(session, target, patience, first)
    if first:
        return Answer(outcome=Outcome.SERVED, detail=_line(first))
    return await _ask_h1(session, target, patience)


def refusal(session: Session, ending: Ending) -> Answer:
    """An ending as an answer to the caller."""
    if ending is Ending.ALERT:
        return Answer(outcome=Outcome.ALERT, detail=session.seen.alert_name)
    if ending is Ending.CLOSED:
        return Answer(outcome=Outcome.CLOSED, detail="closed after the handshake")
    if ending is Ending.FLOODED:
        return Answer(outcome=Outcome.SERVED, detail="more bytes than were asked for")
    return Answer(outcome=Outcome.UNKNOWN, detail=ending.value)


async def _ask_h1(session: Session, target: Target, patience: float) -> Answer | None:
    text = b""
    try:
        await session.send(request(target))
    except OSError:
        return _unclear(session, Ending.CLOSED)
    while len(text) < _ENOUGH:
        said = await session.receive(patience)
        if isinstance(said, Ending):
            return judged(text) if text else _unclear(session, said)
        text += said
        if text.startswith(b"HTTP/") and b" 400 " not in text[:20]:
            break  # the status says it all; of a 400 the words are wanted, too
    return judged(text)


def _unclear(session: Session, ending: Ending) -> Answer | None:
    """Nothing was answered: a refusal, a protocol that is not HTTP, or one that says nothing to nonsense."""
    if ending is Ending.ALERT:
        return refusal(session, ending)
    if ending is Ending.STALLED:
        return Answer(outcome=Outcome.SERVED, detail="it went on listening")
    if ending is Ending.FLOODED:
        return refusal(session, ending)
    if session.seen.ticket or not session.seen.requested or session.seen.version != "TLSv1.3":
        return Answer(outcome=Outcome.SERVED, detail="closed after a request")
    return None


def judged(text: bytes) -> Answer:
    """What the answer to a request says: is it for want of a certificate?"""
    line = _line(text)
    status = _status(text)
    wants = status == _BAD_REQUEST and b"ertificate" in text
    refused = status in _FORBIDDEN or wants
    return Answer(outcome=Outcome.REFUSED_ABOVE if refused else Outcome.SERVED, detail=line)


def _status(text: bytes) -> int:
    words = text[:40].split(b" ", 2)
    if not words[0].startswith(b"HTTP/") or len(words) < 2 or not words[1][:3].isdigit():
        return 0
    return int(words[1][:3])


def _line(text: bytes) -> str:
    return printable(text[:200].partition(b"\n")[0].decode("utf-8", "replace").strip(), 80)


async def _ask_postgres(session: Session, patience: float) -> Answer | None:
    """Begin as a user who does not exist (PostgreSQL, "Message Flow"); no password is ever sent."""
    try:
        await session.send(_POSTGRES_START)
    except OSError:
        return _unclear(session, Ending.CLOSED)
    said = await session.receive(patience)
    return _unclear(session, said) if isinstance(said, Ending) else judged_postgres(said)


def judged_postgres(message: bytes) -> Answer:
    """What a database says to a beginning: how to log in, or why not (its "ErrorResponse")."""
    if message[:1] != b"E":
        return Answer(outcome=Outcome.SERVED, detail="asks who the user is")
    fields = {each[:1]: each[1:] for each in message[5:].split(b"\0")}
    why = _line(fields.get(b"M", b""))
    return Answer(outcome=Outcome.REFUSED_ABOVE if "certificate" in why else Outcome.UNKNOWN, detail=why)


async def _ask_h2(session: Session, target: Target, patience: float, first: bytes) -> Answer | None:
    """``first`` is what the endpoint said already: it may begin, too."""
    h2 = H2Connection()
    h2.initiate_connection()
    headers = [(":method", "GET"), (":scheme", "https"), (":authority", str(target)), (":path", "/")]
    h2.send_headers(1, [*headers, ("user-agent", _AGENT)], end_stream=True)
    heard = bool(first)
    try:
        h2.receive_data(first)
        await session.send(h2.data_to_send())
        while True:
            said = await session.receive(patience)
            if isinstance(said, Ending):
                ended = said is Ending.ALERT or not heard
                return _unclear(session, said) if ended else Answer(outcome=Outcome.SERVED, detail="HTTP/2")
            heard = True
            if (answer := _of_events(h2.receive_data(said))) is not None:
                return answer
            await session.send(h2.data_to_send())
    except OSError:
        return Answer(outcome=Outcome.SERVED, detail="HTTP/2") if heard else _unclear(session, Ending.CLOSED)
    except (ProtocolError, ValueError):
        return Answer(outcome=Outcome.SERVED, detail="something that is not HTTP/2")


def _of_events(events: list[Event]) -> Answer | None:
    for event in events:
        if isinstance(event, ResponseReceived):
            status = next((value for name, value in event.headers or () if name == b":status"), b"")
            return judged(b"HTTP/2 " + bytes(status) + b" ")
        if isinstance(event, StreamReset | ConnectionTerminated):
            return Answer(outcome=Outcome.SERVED, detail="HTTP/2, the request was reset")
    return None
