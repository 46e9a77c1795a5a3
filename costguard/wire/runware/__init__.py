"""Runware's native tasks (https://runware.ai/docs): bytes and JSON on one side, tasks and outcomes on the other."""
