import pytest

from vestibule.errors import VestibuleError
from vestibule.sdk import SpiffeId, authorize_ids, authorize_member_of

ORDERS = SpiffeId.parse("spiffe://example.org/orders")
PAYMENTS = SpiffeId.parse("spiffe://example.org/payments")
ELSEWHERE = SpiffeId.parse("spiffe://example.com/orders")


def test_ids_are_exact() -> None:
    authorize = authorize_ids(ORDERS, "spiffe://EXAMPLE.org/payments")
    assert authorize(ORDERS)
    assert authorize(PAYMENTS)
    assert not authorize(ELSEWHERE)
    assert not authorize(SpiffeId.parse("spiffe://example.org/orders/below"))


def test_members_are_those_of_one_trust_domain() -> None:
    authorize = authorize_member_of("example.org")
    assert authorize(ORDERS)
    assert not authorize(ELSEWHERE)


def test_an_authorizer_says_whom_it_wants() -> None:
    assert (
        str(authorize_ids(PAYMENTS, ORDERS)) == "spiffe://example.org/orders, spiffe://example.org/payments"
    )
    assert str(authorize_member_of("example.org")) == "members of example.org"


def test_an_authorizer_of_nobody_and_of_nonsense_cannot_be_made() -> None:
    with pytest.raises(ValueError, match="refuse everybody"):
        authorize_ids()
    with pytest.raises(VestibuleError):
        authorize_ids("example.org/orders")
    with pytest.raises(VestibuleError):
        authorize_member_of("not a domain")
