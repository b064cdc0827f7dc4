"""The proxy beside an app: its Envoy, its place at the agent, its addresses, and the app's own listeners."""
