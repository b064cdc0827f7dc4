"""The xDS protocol without sockets: resources, per-stream state machines, the ledger of acknowledgements."""
