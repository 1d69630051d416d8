"""Losses, draws and top-k from features and a dense class table, streamed over classes."""
