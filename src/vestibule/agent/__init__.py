"""The node agent: joins the server, keeps SVIDs and bundles current and on disk, knows whose they are."""
