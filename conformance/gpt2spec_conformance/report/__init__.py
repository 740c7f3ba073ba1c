"""Reports of sessions are all made from the JSON lines, which hold everything that a session found."""
