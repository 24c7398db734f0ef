"""The commands: ``sitebus-serve``.

A command reads its arguments, calls the rooms below, and says in one sentence what went wrong.
"""
