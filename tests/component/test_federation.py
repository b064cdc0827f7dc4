"""Two trust domains federate, over both profiles; what they hold follows what the other publishes."""

from __future__ import annotations

import asyncio
import json
import ssl
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.component.federation_lab import Domain, domains, until, value_of
from tests.component.server_lab import short_directory
from tests.component.test_sdk import ask, echo
from tests.component.test_server_oidc import write_certificate
from tests.whole_lines import whole_lines

from vestibule.calls.unix import unix_channel
from vestibule.calls.workload_api import WorkloadApi
from vestibule.errors import VestibuleError
from vestibule.pki.bundles import from_jwks
from vestibule.records import EndpointProfile
from vestibule.sdk import (
    X509Source,
    authorize_ids,
    authorize_member_of,
    client_context,
    fetch_jwt_bundles,
    fetch_x509_context,
    server_context,
    validate_jwt_svid,
)
from vestibule.wire.gen.spire import bundle_pb2, trustdomain_pb2, types_pb2

SHORT: dict[str, Any] = {"ca_ttl": timedelta(seconds=24), "default_x509_svid_ttl": timedelta(seconds=12)}


def same_authorities(held: types_pb2.Bundle, published: types_pb2.Bundle) -> bool:
    return {each.asn1 for each in held.x509_authorities} == {
        each.asn1 for each in published.x509_authorities
    } and {each.key_id for each in held.jwt_authorities} == {
        each.key_id for each in published.jwt_authorities
    }


async def caught_up(here: Domain, there: Domain) -> bool:
    return same_authorities(await here.federated(there), await there.own())


@pytest.mark.timeout(150)
async def test_workloads_of_two_trust_domains_talk_through_rotation_and_an_outage() -> None:
    """Both directions over https_spiffe, with authorities that live for seconds."""
    async with asyncio.timeout(110), domains(east=SHORT, west=SHORT) as (east, west):
        await east.federate(west)
        await west.federate(east)
        client, server = await east.agent(), await west.agent()
        await east.entry(client, "/client", "west.org")
        await west.entry(server, "/server", "east.org")
        async with (
            X509Source(east.agent_address) as mine,
            X509Source(west.agent_address) as theirs,
        ):
            calling = client_context(mine, authorize_ids("spiffe://west.org/server"))
            serving = server_context(theirs, authorize_member_of("east.org"))
            first = {each.asn1 for each in (await west.own()).x509_authorities}
            async with echo(serving) as port:
                assert await ask(port, calling) == "spiffe://east.org/client"
                # The partner's CA is replaced, more than once over; nobody is told but by the endpoints.
                while first & {each.asn1 for each in (await west.own()).x509_authorities}:
                    assert await ask(port, calling) == "spiffe://east.org/client"
                    await asyncio.sleep(0.2)
                await until(lambda: caught_up(east, west))
                assert await ask(port, calling) == "spiffe://east.org/client"
                # The partner's server, and so its endpoint, goes away: what is held stays in use, and its age is told.
                await west.stop()
                status = await until(lambda: failing(east, west))
                assert status.fetched_at > 0
                assert status.has_bundle
                assert status.problem_code == "VST2340"
                assert await ask(port, calling) == "spiffe://east.org/client"
                await west.start()
                await until(lambda: healthy(east, west))
                assert await ask(port, calling) == "spiffe://east.org/client"


async def failing(here: Domain, there: Domain) -> Any:
    status = await here.status(there)
    return status if status.failures else None


async def healthy(here: Domain, there: Domain) -> bool:
    status = await here.status(there)
    return status.attempted_at > 0 and not status.failures


async def test_the_web_profile_needs_no_bundle_to_begin_with() -> None:
    with short_directory() as files:
        certificate, key = write_certificate(files)
        web = {
            "federation_bundle_endpoint_profile": EndpointProfile.HTTPS_WEB,
            "federation_bundle_endpoint_tls_cert": certificate,
            "federation_bundle_endpoint_tls_key": key,
        }
        async with domains(east={"federation_web_ca": certificate}, west=web) as (east, west):
            await east.federate(west, web=True)
            await until(lambda: healthy(east, west))
            assert await caught_up(east, west)
            # The same endpoint is not believed by whoever expects an SVID there.
            request = trustdomain_pb2.BatchUpdateFederationRelationshipRequest(
                federation_relationships=[
                    types_pb2.FederationRelationship(
                        trust_domain="west.org",
                        https_spiffe=types_pb2.HTTPSSPIFFEProfile(endpoint_spiffe_id=west.server_id),
                    )
                ],
                input_mask=types_pb2.FederationRelationshipMask(bundle_endpoint_profile=True),
            )
            answer = await east.domains("BatchUpdateFederationRelationship", request)
            assert answer.results[0].status.code == 0
            status = await until(lambda: failing(east, west))
            assert status.problem_code == "VST2350"
            assert await caught_up(east, west), "the last good one is kept"


async def test_a_web_client_does_not_believe_an_svid_and_is_told_what_to_do() -> None:
    async with domains(east={}, west={}) as (east, west):
        await east.federate(west, web=True)
        status = await until(lambda: failing(east, west))
        assert status.problem_code == "VST2350"
        assert "https_spiffe" in status.advice
        assert not status.has_bundle


async def test_an_endpoint_is_believed_only_as_the_id_that_was_configured() -> None:
    async with domains(east={}, west={}) as (east, west):
        relationship = types_pb2.FederationRelationship(
            trust_domain="west.org",
            bundle_endpoint_url=west.url,
            https_spiffe=types_pb2.HTTPSSPIFFEProfile(endpoint_spiffe_id="spiffe://west.org/somebody-else"),
            trust_domain_bundle=await west.own(),
        )
        request = trustdomain_pb2.BatchCreateFederationRelationshipRequest(
            federation_relationships=[relationship]
        )
        await east.domains("BatchCreateFederationRelationship", request)
        status = await until(lambda: failing(east, west))
        assert status.problem_code == "VST2350"
        assert "spiffe://west.org/spire/server, not spiffe://west.org/somebody-else" in status.problem


async def test_without_a_bundle_an_svid_proves_nothing_and_setting_one_helps_at_once() -> None:
    async with domains(east={}, west={}) as (east, west):
        await east.federate(west, bundle=False)
        status = await until(lambda: failing(east, west))
        assert status.problem_code == "VST1235"
        request = bundle_pb2.BatchSetFederatedBundleRequest(bundle=[await west.own()])
        answer = await east.bundles("BatchSetFederatedBundle", request)
        assert answer.results[0].status.code == 0
        await until(lambda: healthy(east, west), within=10)


async def test_a_refresh_by_hand_says_how_it_went() -> None:
    async with domains(east={"federation_shortest_refresh": timedelta(hours=1)}, west={}) as (east, west):
        refresh = trustdomain_pb2.RefreshBundleRequest(trust_domain="west.org")
        with pytest.raises(VestibuleError, match="does not exist"):
            await east.domains("RefreshBundle", refresh)
        await east.federate(west)
        await until(lambda: healthy(east, west))
        await east.domains("RefreshBundle", refresh)
        await west.stop()
        with pytest.raises(VestibuleError, match="VST2340"):
            await east.domains("RefreshBundle", refresh)


async def test_the_endpoint_gives_the_bundle_and_nothing_else() -> None:
    async with domains(east={"federation_bundle_endpoint_refresh_hint": timedelta(seconds=77)}) as [east]:
        own = await east.own()
        async with httpx.AsyncClient(verify=anybody(), trust_env=False, timeout=60) as client:
            page = await client.get(east.url)
            assert page.status_code == 200
            assert page.headers["content-type"] == "application/json"
            document = page.json()
            assert document["spiffe_refresh_hint"] == 77
            assert document["spiffe_sequence"] == own.sequence_number
            assert {key["use"] for key in document["keys"]} == {"x509-svid", "jwt-svid"}
            held = from_jwks(east.trust_domain, page.content)
            assert held.x509_authorities == value_of(own).x509_authorities
            assert (await client.get(east.url, params={"x": "y"})).json() == document
            for path in ("bundle", "keys", ".well-known/openid-configuration"):
                assert (await client.get(east.url + path)).status_code == 404
            for method in ("POST", "HEAD", "PUT", "DELETE"):
                refused = await client.request(method, east.url)
                assert refused.status_code == 405
                assert refused.headers["allow"] == "GET"


def anybody() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


async def test_workloads_get_the_bundles_that_their_entries_name_and_lose_them_with_the_name() -> None:
    async with domains(east={}, west={}, north={}) as (east, west, north):
        await east.federate(west)
        await east.federate(north)
        agent = await east.agent()
        entry = await east.entry(agent, "/client", "west.org")
        await until(lambda: fetched(east))
        channel = unix_channel(east.agent_socket)
        try:
            contexts = WorkloadApi(channel).watch()
            context = await anext(contexts)
            while {str(each.trust_domain) for each in context.bundles} != {"east.org", "west.org"}:
                context = await asyncio.wait_for(anext(contexts), 60)
            await east.update_entry(entry, "north.org")
            while {str(each.trust_domain) for each in context.bundles} != {"east.org", "north.org"}:
                context = await asyncio.wait_for(anext(contexts), 60)
            # The bundle goes, and with it what the entry says of it.
            request = bundle_pb2.BatchDeleteFederatedBundleRequest(trust_domains=["north.org"])
            answer = await east.bundles("BatchDeleteFederatedBundle", request)
            assert "VST8030" in answer.results[0].status.message
            await east.domains(
                "BatchDeleteFederationRelationship",
                trustdomain_pb2.BatchDeleteFederationRelationshipRequest(trust_domains=["north.org"]),
            )
            request.mode = bundle_pb2.BatchDeleteFederatedBundleRequest.DISSOCIATE
            answer = await east.bundles("BatchDeleteFederatedBundle", request)
            assert answer.results[0].status.code == 0, answer.results[0].status.message
            while {str(each.trust_domain) for each in context.bundles} != {"east.org"}:
                context = await asyncio.wait_for(anext(contexts), 60)
            await contexts.aclose()
        finally:
            channel.close()


async def test_tokens_of_a_partner_are_valid_for_those_who_federate_and_for_nobody_else() -> None:
    async with domains(east={}, west={}) as (east, west):
        await east.federate(west)
        agent = await east.agent()
        entry = await east.entry(agent, "/verifier")
        token = await west.mint_jwt("/caller", "billing")
        await until(lambda: fetched(east))
        with pytest.raises(VestibuleError, match=r"west\.org"):
            await validate_jwt_svid(token, "billing", address=east.agent_address)
        await east.update_entry(entry, "west.org")

        async def known() -> bool:
            bundles = await fetch_jwt_bundles(east.agent_address)
            return {str(each.trust_domain) for each in bundles} == {"east.org", "west.org"}

        await until(known)
        svid = await validate_jwt_svid(token, "billing", address=east.agent_address)
        assert str(svid.spiffe_id) == "spiffe://west.org/caller"
        # A token of ours, signed with a partner's key, is none; nor is one for somebody else.
        with pytest.raises(VestibuleError):
            await validate_jwt_svid(token, "other", address=east.agent_address)


async def fetched(domain: Domain) -> bool:
    try:
        await fetch_x509_context(domain.agent_address, timeout=5)
    except VestibuleError:
        return False
    return True


async def test_an_agent_restarted_in_an_outage_still_has_the_partners_bundle() -> None:
    async with domains(east={}, west={}) as (east, west):
        await east.federate(west)
        agent = await east.agent()
        await east.entry(agent, "/client", "west.org")

        async def federating() -> bool:
            if not await fetched(east):
                return False
            context = await fetch_x509_context(east.agent_address)
            return len(context.bundles) == 2

        await until(federating)
        await east.stop_agents()
        await east.stop()
        await east.restart_agent()
        context = await fetch_x509_context(east.agent_address)
        held = {str(each.trust_domain): each for each in context.bundles}
        assert held["west.org"].x509_authorities == (await west.bundle()).x509_authorities


async def test_everything_that_is_done_is_on_record() -> None:
    async with domains(east={}, west={}) as (east, west):
        await east.federate(west)
        await until(lambda: healthy(east, west))
        agent = await east.agent()
        await east.entry(agent, "/client", "west.org")
        await east.domains(
            "BatchDeleteFederationRelationship",
            trustdomain_pb2.BatchDeleteFederationRelationshipRequest(trust_domains=["west.org"]),
        )
        request = bundle_pb2.BatchDeleteFederatedBundleRequest(
            trust_domains=["west.org"], mode=bundle_pb2.BatchDeleteFederatedBundleRequest.DELETE
        )
        await east.bundles("BatchDeleteFederatedBundle", request)
        records = actions(east.directory / "data" / "audit.jsonl")
        assert {
            "federation.create",
            "federation.delete",
            "federated-bundle.delete",
            "entry.create",
            "entry.delete",
        } <= set(records)


def actions(log: Path) -> list[str]:
    return [json.loads(line).get("action", "") for line in whole_lines(log.read_text())]
