"""One guarded exchange: the gate before it is sent, the settlement after, the flow between. No HTTP library."""
