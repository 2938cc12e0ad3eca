"""What a process that parses input from strangers may still ask of the kernel: Landlock, seccomp, limits (ADR 36).

Rule: knows paths, ports and system calls, nothing of archives, DICOM or configuration; whoever starts the process says
what it needs.
"""
