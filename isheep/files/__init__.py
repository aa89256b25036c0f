"""Files that a stranger may hand over, read within limits: their bytes, JSON and YAML."""
