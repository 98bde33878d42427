"""The operators' room: command line, web page, checks."""
