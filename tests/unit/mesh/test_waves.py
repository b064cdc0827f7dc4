"""First waves, and when a wave has been watched for long enough."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from tests.unit.mesh.test_discovery import instance

from vestibule.mesh.waves import DEADLINE, Member, first_wave, look

NOW = datetime(2026, 5, 1, tzinfo=UTC)
WATCH = timedelta(seconds=30)


def member(service: str, *, well: bool = True, has: bool = True, name: str = "") -> Member:
    return Member(instance_id=name or f"{service}-1", service=service, was_well=well, has_it=has)


def at(seconds: float, *members: Member) -> tuple[bool, str]:
    verdict = look(members, NOW, WATCH, NOW + timedelta(seconds=seconds))
    return verdict.watched, verdict.failure


def test_a_first_wave_has_some_of_each_service_and_one_at_least() -> None:
    everybody = [instance("web", id=f"web-{number}") for number in range(25)]
    everybody += [instance("payments", id="payments-1")]
    wave = first_wave(everybody, 10)
    assert wave is not None
    assert len([each for each in wave if each.startswith("web")]) == 3
    assert "payments-1" in wave


def test_the_choice_follows_from_the_ids_alone() -> None:
    everybody = [instance("web", id=f"web-{number}") for number in range(50)]
    assert first_wave(everybody, 10) == first_wave(list(reversed(everybody)), 10)
    smaller, larger = first_wave(everybody, 10), first_wave(everybody, 30)
    assert smaller is not None
    assert larger is not None
    assert smaller < larger


def test_a_wave_that_would_be_all_is_none() -> None:
    assert first_wave([instance("web"), instance("payments", id="p")], 10) is None
    assert first_wave([instance("web")], 100) is None
    assert first_wave([], 10) is None


def test_a_wave_is_watched_for_its_time_and_until_all_have_answered() -> None:
    assert at(29, member("web")) == (False, "")
    assert at(30, member("web")) == (True, "")
    assert at(30, member("web"), member("web", has=False)) == (False, "")
    assert at(30) == (True, "")


def test_those_who_were_not_well_before_are_waited_for_by_nobody() -> None:
    assert at(30, member("web"), member("payments", well=False, has=False)) == (True, "")


def test_one_silent_proxy_among_others_stays_behind() -> None:
    late = 30 + DEADLINE.total_seconds()
    assert at(late - 1, member("web"), member("web", has=False)) == (False, "")
    assert at(late, member("web"), member("web", has=False)) == (True, "")


def test_a_service_that_falls_silent_altogether_takes_it_back() -> None:
    late = 30 + DEADLINE.total_seconds()
    watched, failure = at(late, member("web"), member("payments", has=False))
    assert not watched
    assert "payments" in failure
