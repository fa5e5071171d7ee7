"""Prompts and preferences: named sets, files, and datasets on the Hub; encoded pictures."""
