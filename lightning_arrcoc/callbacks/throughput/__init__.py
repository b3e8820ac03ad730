"""What `ThroughputMonitor` is made of."""
