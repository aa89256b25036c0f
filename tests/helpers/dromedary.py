"""The names of the packaged principles."""

LONG, SHORT = "dromedary/principles", "principles"
