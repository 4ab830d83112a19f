"""How other libraries name and arrange the weights of these networks, in both directions.

One file a dialect. Reading the bytes is `files`' work.
"""
