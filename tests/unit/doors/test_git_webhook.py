"""What a Git host may tell, and how it proves that it is one."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
from collections.abc import AsyncIterator

import httpx
import pytest
from starlette.applications import Starlette

from vestibule.doors import git_webhook
from vestibule.doors.git_webhook import BURST, MOST_AT_ONCE, MOST_BYTES, PATH, GitWebhook
from vestibule.keys.codes import SECRET_REFUSED
from vestibule.keys.secrets import Secret

SECRET = "correct horse"
BODY = b'{"ref": "refs/heads/main"}'


class Told:
    def __init__(self) -> None:
        self.times = 0

    def __call__(self) -> None:
        self.times += 1


@pytest.fixture
def told() -> Told:
    return Told()


@pytest.fixture
def host(told: Told) -> httpx.AsyncClient:
    app = Starlette(routes=[GitWebhook(lambda: Secret(SECRET), told).route])
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://server")


def signature(body: bytes = BODY, secret: str = SECRET) -> str:
    return hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()


@pytest.mark.parametrize(
    "headers",
    [
        {"X-Hub-Signature-256": f"sha256={signature()}"},
        {"X-Gitea-Signature": signature()},
        {"X-Forgejo-Signature": signature()},
        {"X-Gitlab-Token": SECRET},
    ],
    ids=lambda headers: next(iter(headers)),
)
async def test_a_host_that_knows_the_secret_is_heard(
    host: httpx.AsyncClient, told: Told, headers: dict[str, str]
) -> None:
    answer = await host.post(PATH, content=BODY, headers=headers)
    assert (answer.status_code, answer.json(), told.times) == (202, {"accepted": True}, 1)


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"X-Hub-Signature-256": f"sha256={signature(secret='other')}"},
        {"X-Hub-Signature-256": f"sha256={signature(b'{}')}"},
        {"X-Hub-Signature": "sha1=" + hmac.new(SECRET.encode(), BODY, hashlib.sha1).hexdigest()},
        {"X-Gitlab-Token": "correct"},
        {"X-Gitlab-Token": ""},
        # A wrong signature is not mended by another header.
        {"X-Hub-Signature-256": "sha256=00", "X-Gitlab-Token": SECRET},
    ],
)
async def test_everybody_else_is_not(host: httpx.AsyncClient, told: Told, headers: dict[str, str]) -> None:
    answer = await host.post(PATH, content=BODY, headers=headers)
    assert (answer.status_code, told.times) == (401, 0)
    assert answer.json()["code"] == "VST2207"
    assert SECRET not in answer.text


async def test_only_posts_are_taken(host: httpx.AsyncClient) -> None:
    assert (await host.get(PATH)).status_code == 405


async def test_a_message_without_end_is_cut_off(host: httpx.AsyncClient, told: Told) -> None:
    body = b"x" * (MOST_BYTES + 1)
    answer = await host.post(PATH, content=body, headers={"X-Gitea-Signature": signature(body)})
    assert (answer.status_code, told.times) == (413, 0)


async def test_a_flood_is_held_off(host: httpx.AsyncClient) -> None:
    genuine = {"X-Gitlab-Token": SECRET}
    answers = [(await host.post(PATH, content=b"", headers=genuine)).status_code for _ in range(BURST + 5)]
    assert answers[0] == 202
    assert answers[-1] == 429


async def test_a_flood_of_strangers_silences_nobody(host: httpx.AsyncClient, told: Told) -> None:
    for headers in ({}, {"X-Gitlab-Token": "wrong"}):
        answers = [
            (await host.post(PATH, content=b"", headers=headers)).status_code for _ in range(2 * BURST)
        ]
        assert set(answers) == {401}
    assert (await host.post(PATH, content=BODY, headers={"X-Gitlab-Token": SECRET})).status_code == 202
    assert told.times == 1


async def test_strangers_who_say_nothing_are_not_waited_for(
    host: httpx.AsyncClient, told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(git_webhook, "READ_WITHIN", 0.01)

    async def nothing() -> AsyncIterator[bytes]:
        yield b"{"
        await asyncio.Event().wait()

    wrong = {"X-Gitlab-Token": "wrong"}
    silent = [host.post(PATH, content=nothing(), headers=wrong) for _ in range(2 * MOST_AT_ONCE)]
    genuine = host.post(PATH, content=BODY, headers={"X-Gitlab-Token": SECRET})
    *others, ours = await asyncio.gather(*silent, genuine)
    assert {each.status_code for each in others} == {408}
    assert (ours.status_code, told.times) == (202, 1)


async def test_without_its_file_nobody_is_believed(told: Told) -> None:
    def gone() -> Secret:
        raise SECRET_REFUSED.error("the file is gone")

    app = Starlette(routes=[GitWebhook(gone, told).route])
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://server") as host:
        answer = await host.post(PATH, content=BODY, headers={"X-Gitlab-Token": SECRET})
    assert (answer.status_code, told.times) == (503, 0)
