"""Configuration files of server and agent: one typed schema, from which YAML, JSON Schema and the page in docs follow.

The schema is the settings' own types (``ServerSettings``, ``AgentSettings``), with a sentence for each (``meanings``).
"""
