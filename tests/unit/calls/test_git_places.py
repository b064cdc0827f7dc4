"""Addresses, names and folders of repositories: text that would reach a command line."""

from __future__ import annotations

import pytest

from vestibule.calls.git import Place, Ref, folder
from vestibule.errors import VestibuleError


@pytest.mark.parametrize(
    "text",
    [
        "https://github.com/acme/intent.git",
        "https://git@example.org:8443/acme/intent",
        "ssh://git@example.org:2222/acme/intent.git",
        "git@example.org:acme/intent.git",
        "/srv/git/intent.git",
    ],
)
def test_https_ssh_and_paths_are_fetched_from(text: str) -> None:
    assert str(Place.parse(text)) == text


@pytest.mark.parametrize(
    "text",
    [
        "ext::sh -c 'touch /tmp/x'",
        "fd::3",
        "--upload-pack=touch /tmp/x",
        "-oProxyCommand=touch",
        "ssh://-oProxyCommand=touch/x",
        "git@-oProxyCommand=touch:x",
        "git@host:-x",
        "http://example.org/x",
        "git://example.org/x",
        "ftp://example.org/x",
        "file://elsewhere/x",
        "relative/path",
        "",
        "https://exa mple.org/x",
        "https://example.org/x\n--upload-pack=y",
        "https://example.org",
        "/srv/\x1b[2Jx",
        "https://example.org/" + "x" * 2000,
    ],
)
def test_every_other_address_is_refused(text: str) -> None:
    with pytest.raises(VestibuleError) as caught:
        Place.parse(text)
    assert caught.value.code.code == "VST3220"


@pytest.mark.parametrize(
    "text",
    [
        *("https://ann:s3cret@example.org/x", "http://ann:s3cret@h/x", "ann:s3cret@h:x"),
        *("https://ghp_s3cret@github.com/x", "https://github_pat_s3cret@github.com/x"),
        "https://glpat-s3cret@gitlab.com/x",
    ],
)
def test_a_password_or_token_in_an_address_is_refused_and_not_repeated(text: str) -> None:
    with pytest.raises(VestibuleError) as caught:
        Place.parse(text)
    assert "password" in str(caught.value)
    assert "s3cret" not in str(caught.value)


def test_a_file_address_is_a_path() -> None:
    assert Place.parse("file:///srv/my%20intent") == Place.parse("/srv/my intent")


def test_a_name_may_be_a_branch_a_tag_or_a_commit() -> None:
    assert Ref.parse("release/2.1").candidates == ("refs/heads/release/2.1", "refs/tags/release/2.1")
    assert Ref.parse("refs/tags/v1").candidates == ("refs/tags/v1",)
    assert Ref.parse("a" * 40).commit == "a" * 40
    assert Ref.parse("abc").commit is None


@pytest.mark.parametrize(
    "text",
    [
        "",
        "-x",
        "--upload-pack=x",
        "a..b",
        "a b",
        "a:b",
        "a*",
        "a?",
        "a[b",
        "a^",
        "a~1",
        "x.lock",
        "a//b",
        "a/",
        "@{u}",
    ],
)
def test_what_git_allows_no_name_is_refused(text: str) -> None:
    with pytest.raises(VestibuleError):
        Ref.parse(text)


def test_a_folder_stays_in_the_repository() -> None:
    assert folder("/mesh/prod/") == "mesh/prod"
    assert folder("") == ""
    for text in ("..", "a/../b", "a//b", ".", "a\nb"):
        with pytest.raises(VestibuleError):
            folder(text)
