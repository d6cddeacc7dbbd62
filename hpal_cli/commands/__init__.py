"""The command layer: each command is a thin function over a library call. The library never imports it.

Nothing heavy is imported at module level here, so that help and completion answer at once.
"""
