"""What GradientMonitor is made of; each file can be read, and tested, without a Trainer."""
