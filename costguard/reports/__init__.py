"""Reports: what was spent, read from a ledger (`monthly`), and how any of it is written down (`output`)."""
