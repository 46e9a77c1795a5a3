"""The durable record of who held what, what was billed, and what every budget has left."""
