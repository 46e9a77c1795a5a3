"""The modalities of a prompt, and the kinds of media that carry them: the one list that every room reads."""

from __future__ import annotations

MODALITIES = ("TEXT", "IMAGE", "AUDIO", "VIDEO", "DOCUMENT")
"""The prompt modalities of an estimate, in the order they are shown."""

KINDS = ("images", "audios", "videos", "documents")
"""The kinds of media that a task may list, as its `Prompt.media` names them."""
