"""The craft of certificates: keys, requests, profiles, chains, bundle documents, renewal.  No I/O, no clock."""
