"""What a process needs of the machine that it runs on: threads that are watched, descriptors, sockets, signals."""
