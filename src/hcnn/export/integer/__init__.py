"""Networks in 8-bit integers as C99 for microcontrollers: quantized, evaluated in NumPy, written as C, and checked."""
