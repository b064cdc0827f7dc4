"""One filter in every listener that is off, and that a route switches on together with what it shall do.

Faults, rate limits and what hosts outside need come and go with routes in this way, and no listener is ever drained for
them.  There is one for all of it, since each costs a request a look-up also where nothing is switched on.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Final

from envoy.extensions.common.matching.v3 import extension_matcher_pb2
from envoy.extensions.filters.http.composite.v3 import composite_pb2
from envoy.extensions.filters.network.http_connection_manager.v3 import http_connection_manager_pb2 as hcm_pb2
from google.protobuf.any_pb2 import Any
from google.protobuf.message import Message
from xds.core.v3.extension_pb2 import TypedExtensionConfig
from xds.type.matcher.v3.matcher_pb2 import Matcher

from vestibule.envoy import cel
from vestibule.envoy.protos import packed

FILTER: Final = "vestibule.switched"


def http_filter() -> hcm_pb2.HttpFilter:
    """The filter that routes switch on."""
    delegate = extension_matcher_pb2.ExtensionWithMatcher(xds_matcher=Matcher())
    delegate.extension_config.name = "composite"
    delegate.extension_config.typed_config.CopyFrom(packed(composite_pb2.Composite()))
    return hcm_pb2.HttpFilter(name=FILTER, typed_config=packed(delegate), disabled=True)


def on(filters: Iterable[tuple[str, Message]], *, until: datetime | None = None) -> Any:
    """What a route says to the filter: be these, by name and configuration, one after the other.

    From ``until`` on it is none of them, by the proxy's own clock: that ends in time without a word from anybody.
    """
    execute = composite_pb2.ExecuteFilterAction()
    for name, config in filters:
        execute.filter_chain.typed_config.add(name=name).typed_config.CopyFrom(packed(config))
    do = Matcher.OnMatch(action=TypedExtensionConfig(name="composite-action", typed_config=packed(execute)))
    if until is None:
        matcher = Matcher(on_no_match=do)
    else:
        while_it_lasts = Matcher.MatcherList.FieldMatcher(predicate=cel.before(until), on_match=do)
        matcher = Matcher(matcher_list=Matcher.MatcherList(matchers=[while_it_lasts]))
    return packed(extension_matcher_pb2.ExtensionWithMatcherPerRoute(xds_matcher=matcher))
