"""Two facilities and a long way between them, on one machine: for the demonstration and for tests. Needs root.

Namespaces, devices and processes are held by descriptors of whoever made them, so that nothing is left behind, however
he ends.
"""
