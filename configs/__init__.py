"""Configs: each file is a run, opens with the command that starts it, and changes a few lines of its parent."""
