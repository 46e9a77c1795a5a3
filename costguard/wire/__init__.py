"""Runware's wire (https://runware.ai/docs): bytes and JSON on one side, tasks and outcomes on the other. No I/O."""
