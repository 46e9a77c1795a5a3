"""OpenAI-style wires (and Anthropic's, their neighbour): one file a path, and what they share. No I/O."""
