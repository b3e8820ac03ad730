"""Behind `OOMGuard`: why memory ran out, and the batch in parts."""
