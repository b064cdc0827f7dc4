"""One file per version.  A file is never changed once it was released."""
