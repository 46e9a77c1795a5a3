"""The databases that a ledger can live in, one file each."""
