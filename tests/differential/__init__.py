"""Calls by the ten thousand, decided three times: by the engine, by a plain reading of the rules, and by real Envoys.

``python -m tests.differential --requests 30000 --seed 7`` prints what was covered; any difference ends it with 1.
"""
