"""What the server reports of its work: log lines and metrics, in which no patient can be recognised."""
