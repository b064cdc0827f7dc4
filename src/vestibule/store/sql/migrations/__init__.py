"""The way from every older version of the schema to the current one; run by ``store.sql.preparation``."""
