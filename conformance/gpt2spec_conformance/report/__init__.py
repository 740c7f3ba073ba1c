"""Reports of sessions, all of them made from the JSON lines, which hold everything that a session found."""
