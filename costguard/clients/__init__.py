"""One thin adapter per client library. No arithmetic with money here."""
