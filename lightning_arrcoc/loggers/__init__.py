"""Loggers for any Lightning project."""
