"""What is told of the work: log lines and metrics, in which no patient can be recognised."""
