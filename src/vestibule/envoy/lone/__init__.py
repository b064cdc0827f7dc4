"""A proxy without a control plane: what is compiled for it, in files that it follows, or in one for its start.

What it may do, and how, is compiled as for any proxy (``compile``); what is different is how it gets to know.
"""
