"""Telling people of trouble: what is a sign of it, when it is said, and how it gets to them.

`signs` and `telling` are pure: what is seen, and what is to be said of it and when. `wording` makes texts of that,
`outbox` gets them to people by `webhook` and `mail`, `memory` outlives a restart, `worker` runs all of it.
"""
