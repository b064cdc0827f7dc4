"""What a witness of ceremonies checks: the transcripts of all sides, against the root's certificate alone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from vestibule.errors import VestibuleError
from vestibule.pki.certificates import load_certificate
from vestibule.pki.codes import TRANSCRIPT_REFUSED
from vestibule.pki.keys import public_key_der
from vestibule.pki.profiles import authority_id
from vestibule.pki.transcripts import SignedStep, read_transcript


@dataclass(frozen=True, slots=True, kw_only=True)
class File:
    """One transcript that is whole."""

    path: str
    signed_by: str
    steps: int
    last_hash: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What was found; ``ceremonies`` is a line for each intermediate."""

    root_key_id: str
    files: tuple[File, ...]
    ceremonies: tuple[str, ...]


def verify(texts: Mapping[str, str], root: bytes) -> Verdict:
    """Check transcripts by path.

    1. Each is whole, and signed by the keys that it names (``read_transcript``).
    2. One whose steps are a root's is signed by this root alone.
    3. In the others, each step tells the identifier of the key that signed it, and an installation names a step
       by which this root signed that very certificate, for that very key and the request of that transcript.

    Raises: VST1030, VST1005.
    """
    certificate = load_certificate(root)
    key = public_key_der(certificate.public_key())  # type: ignore[arg-type]  # a signer's
    root_key_id = authority_id(certificate.public_key())  # type: ignore[arg-type]
    transcripts = {path: _whole(path, text) for path, text in texts.items()}  # 1
    signs: dict[str, SignedStep] = {}
    for path, steps in transcripts.items():
        if _is_roots(steps):  # 2
            _check_root(path, steps, key)
            signs |= {each.step.hash: each for each in steps if each.step.action == "sign"}
    asked: dict[str, SignedStep] = {}
    installed: dict[str, SignedStep] = {}
    for path, steps in transcripts.items():
        if not _is_roots(steps):  # 3
            _check_asking(path, steps, signs, asked, installed)
    return Verdict(
        root_key_id=root_key_id,
        files=tuple(_file(path, steps, root_key_id) for path, steps in transcripts.items()),
        ceremonies=tuple(_lines(signs.values(), asked, installed)),
    )


def _whole(path: str, text: str) -> list[SignedStep]:
    try:
        steps = read_transcript(text)
    except VestibuleError as error:
        raise TRANSCRIPT_REFUSED.error(f"{path}: {error.message}") from error
    if not steps:
        raise TRANSCRIPT_REFUSED.error(f"{path}: there is no step in it")
    return steps


def _is_roots(steps: Sequence[SignedStep]) -> bool:
    return steps[0].step.action == "init"


def _check_root(path: str, steps: Sequence[SignedStep], key: bytes) -> None:
    for each in steps:
        if each.step.public_key != key:
            raise TRANSCRIPT_REFUSED.error(f"{path}: step {each.step.number} is not signed by this root")


def _check_asking(
    path: str,
    steps: Sequence[SignedStep],
    signs: Mapping[str, SignedStep],
    asked: dict[str, SignedStep],
    installed: dict[str, SignedStep],
) -> None:
    for each in steps:
        step, where = each.step, f"{path}: step {each.step.number}"
        if step.facts.get("key-id") != each.step.signed_by:
            raise TRANSCRIPT_REFUSED.error(f"{where} is not signed by the key that it is about")
        if step.action == "request":
            asked[step.hash] = each
        elif step.action == "install":
            sign = signs.get(step.facts.get("sign-step", ""))
            if sign is None:
                raise TRANSCRIPT_REFUSED.error(f"{where} names no step by which the root signed it")
            for fact in ("name", "key-id", "certificate-sha256", "serial"):
                if sign.step.facts.get(fact) != step.facts.get(fact):
                    raise TRANSCRIPT_REFUSED.error(f"{where} tells another {fact} than the root does")
            if sign.step.facts.get("request-step") not in asked:
                raise TRANSCRIPT_REFUSED.error(f"{where}: the root signed another request than was made here")
            installed[sign.step.hash] = each
        else:
            raise TRANSCRIPT_REFUSED.error(f"{where} is of an unknown kind")


def _file(path: str, steps: Sequence[SignedStep], root_key_id: str) -> File:
    signers = {each.step.signed_by for each in steps}
    told = (
        "the root" if signers == {root_key_id} else f"{len(signers)} requested key{'s'[: len(signers) > 1]}"
    )
    return File(path=path, signed_by=told, steps=len(steps), last_hash=steps[-1].step.hash)


def _lines(
    signs: Iterable[SignedStep], asked: Mapping[str, SignedStep], installed: Mapping[str, SignedStep]
) -> Iterable[str]:
    for each in signs:
        facts = each.step.facts
        states = [
            "requested" if facts.get("request-step") in asked else "request not seen",
            f"signed {each.step.time.date()}",
            "installed" if each.step.hash in installed else "installation not seen",
        ]
        yield f"{facts.get('name')}: {', '.join(states)}"
