"""One file per protocol: bytes and JSON on one side, tasks and their outcomes on the other. No I/O."""
