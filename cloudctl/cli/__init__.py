"""The command line. It speaks HTTP to a management server and knows nothing else of it: no Django, no database.

``resources.py`` is the table of all it can do; a new resource, action or field of the API is a row there.
"""
