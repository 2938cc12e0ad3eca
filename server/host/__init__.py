"""What a process needs from its host: watched threads, file descriptors, sockets, signals, its service manager."""
