"""Who decides for the Envoys of this node, each by the policy of its own proxy's configuration.

Policies come with what the relay hands on, are kept through outages with it, and are read before anything that needs
them is handed on.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterable

from vestibule.errors import VestibuleError
from vestibule.policy.codes import NO_POLICY_HERE
from vestibule.policy.deciders import Decider, Engines
from vestibule.spiffe import TrustDomain
from vestibule.xds.resources import DECISIONS, ProxyKey, Resource, Snapshot

_log = logging.getLogger(__name__)


class Deciding:
    """``holdings`` tells what a proxy has now; None for one that is not connected, of which ``expect`` hears then."""

    def __init__(
        self,
        holdings: Callable[[ProxyKey], Snapshot | None],
        trust_domain: TrustDomain,
        expect: Callable[[ProxyKey], None] = lambda _: None,
    ) -> None:
        self._holdings = holdings
        self._expect = expect
        self.counts: Counter[str] = Counter()
        """Answers since the start: ``allowed``, ``denied``, ``undecided``."""
        self._engines = Engines(str(trust_domain))

    def of(self, proxy: ProxyKey, port: str) -> Decider | None:
        """Who decides about calls to a port of the proxy's instance; None if there is no policy of it.

        Raises: VST4130.
        """
        snapshot = self._holdings(proxy)
        resource = None if snapshot is None else snapshot.of_type(DECISIONS).get(port)
        return None if resource is None else self._engines.of(resource.version, resource.body)

    def check(self, proxy: ProxyKey) -> None:
        """Whether anything is known yet of what the proxy should have.  Raises: VST4131.

        After a restart an Envoy's calls may come before it asks for its configuration: the policy is taken up from
        disk then, and found when it asks again.
        """
        if self._holdings(proxy) is None:
            self._expect(proxy)
            raise NO_POLICY_HERE.error(
                f"the Envoy of {proxy.spiffe_id} has not asked for its configuration yet"
            )

    def prepare(self, resources: Iterable[Resource]) -> None:
        """Read policies that are about to be asked for; thousands of rules take a moment."""
        for each in resources:
            try:
                self._engines.of(each.version, each.body)
            except VestibuleError as error:
                _log.error("%s/%s: %s (%s)", DECISIONS, each.name, error, error.advice)
