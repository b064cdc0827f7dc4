"""SVIDs in files, for programs that read files: what stands in them, how they are replaced, who is told.

Neither ``import vestibule.sdk`` nor a program that uses mutual TLS by itself loads any of it.
"""
