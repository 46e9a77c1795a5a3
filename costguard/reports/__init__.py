"""Reports: what was spent, read from a ledger (`monthly`), as a neutral `document`, and the `formats` that write it."""
