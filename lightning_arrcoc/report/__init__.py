"""Runs told in one page: read from their logs, compared, drawn, and written as HTML and PNG."""
