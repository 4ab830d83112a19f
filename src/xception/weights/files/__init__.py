"""What a file of somebody else's weights holds, read as something that a stranger may have written.

Readers turn bytes into named tensors and never run code from a file. Which network the names mean
is `dialects`' to say.
"""
