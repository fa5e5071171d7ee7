"""Preference methods, one file each. A file dropped into this folder is found by its class's `name`."""
