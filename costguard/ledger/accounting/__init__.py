"""The accounting, written once in portable SQL over any engine."""
