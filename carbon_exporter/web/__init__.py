"""What a process answers over HTTP: site says what, server puts it on a socket, auth and config guard it."""
