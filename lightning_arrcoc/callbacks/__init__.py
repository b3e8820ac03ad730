"""Callbacks for any Lightning project, one behaviour a file."""
