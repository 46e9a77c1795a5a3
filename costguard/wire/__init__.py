"""The wires that are spoken: one folder or file a dialect. No I/O."""
