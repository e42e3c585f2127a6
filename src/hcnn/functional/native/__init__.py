"""Native kernels: C++ without torch's headers, compiled once for each instruction set and loaded by ctypes."""
