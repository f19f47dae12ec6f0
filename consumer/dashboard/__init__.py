"""The alert page: a reader of what the processors publish, and the web application that shows it.

`board` is what was read, `feed` reads it, `application` serves it; `guard` and `access` say to whom.
"""
